"""Weights on disk: safetensors only, described by JSON in the file's own metadata, checked on the way in.

Every file carries a sha256 over its tensors, so a flipped bit is an error and not a slightly different model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gatescope.errors import DataError, NonFiniteError, Refusal
from gatescope.models import LMConfig, TinyLM
from gatescope.paths import atomic_write

# One entry, since safetensors writes several in random order and the same model must give the same bytes.
_HEADER, _DIGEST = "gatescope", "sha256"


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and JSON metadata to one safetensors file, all or nothing; the same content gives the same bytes.

    Raises DataError when the folder cannot be written or the disk is full, NonFiniteError for NaN or infinity.
    """
    path = Path(path)
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise NonFiniteError(
                "write_tensors", f"finite {name} for {path}", "NaN or infinity", "do not save this state"
            )
    header = json.dumps({**metadata, _DIGEST: _digest(tensors)}, sort_keys=True)
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={_HEADER: header})


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and metadata that `write_tensors` wrote.

    Raises DataError when the file is missing, is not safetensors, or does not hold what was written.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("read_tensors", "a safetensors file", f"nothing at {path}", "check the path or make it again")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        digest = metadata.pop(_DIGEST, None)
    except (SafetensorError, ValueError, OSError) as error:
        raise _corrupt(path, str(error)) from error
    if digest is None:
        raise _corrupt(path, "a file without its sha256")
    if digest != _digest(tensors):
        raise _corrupt(path, "tensors that differ from those that were written")
    return tensors, metadata


def save_model(path: str | Path, model: TinyLM, extra: Mapping[str, Any] | None = None) -> None:
    """Write a model: its weights, its config, and ``extra`` (JSON values: how it was trained, what it scores).

    Raises DataError when the file cannot be written, NonFiniteError for weights that are not finite.
    """
    write_tensors(path, model.state_dict(), {"config": model.config.to_dict(), "extra": dict(extra or {})})


def load_model(path: str | Path) -> TinyLM:
    """The model that `save_model` wrote, on the CPU, in the dtype it was saved in.

    Raises DataError for a missing or corrupt file, a file without a config, or weights that do not fit the config.
    """
    tensors, metadata = read_tensors(path)
    try:
        config = LMConfig.from_dict(metadata["config"])
    except KeyError as error:
        raise DataError(
            "load_model",
            f"the config of a TinyLM in {path}",
            f"metadata {sorted(metadata)}",
            "write it with save_model",
        ) from error
    except Refusal as error:
        raise DataError(
            "load_model", f"a valid config in {path}", f"'{error}'", "write it again with save_model"
        ) from error
    model = TinyLM(config)
    load_weights(model, tensors, path)
    return model


def load_extra(path: str | Path) -> dict[str, Any]:
    """What was passed to `save_model` as ``extra``. Raises DataError as `read_tensors` does."""
    return read_tensors(path)[1].get("extra", {})


def load_weights(model: torch.nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Put ``tensors`` into ``model``, whose names, shapes and finiteness must all be right, or change nothing.

    ``path`` is where they came from, for the DataError that says what is wrong.
    """
    wanted = model.state_dict()
    problems = [f"no {name}" for name in wanted.keys() - tensors.keys()]
    problems += [f"an unknown {name}" for name in tensors.keys() - wanted.keys()]
    for name in wanted.keys() & tensors.keys():
        if tensors[name].shape != wanted[name].shape:
            problems.append(f"{name} {list(tensors[name].shape)} instead of {list(wanted[name].shape)}")
        elif not tensors[name].isfinite().all():
            problems.append(f"NaN or infinity in {name}")
    if problems:
        raise DataError(
            "load_weights",
            f"the {len(wanted)} weights of this {type(model).__name__} in {path}",
            "; ".join(sorted(problems)[:5]),
            "use the config the file was written with, or write the file again",
        )
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) == 1:
        model.to(dtypes.pop())
    model.load_state_dict(dict(tensors))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _corrupt(path: Path, got: str) -> DataError:
    return DataError("read_tensors", f"an intact safetensors file at {path}", got, "delete the file and make it again")


__all__ = ["load_extra", "load_model", "load_weights", "read_tensors", "save_model", "write_tensors"]
