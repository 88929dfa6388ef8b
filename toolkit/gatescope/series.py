"""A series of checkpoints as one record along ``step``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import xarray as xr
from jaxtyping import Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from gatescope import records
from gatescope.checkpoints import load_model
from gatescope.errors import Refusal
from gatescope.probes import Probe
from gatescope.recorder import measure

Checkpoint = str | Path | Callable[[], nn.Module]


def measure_series(
    checkpoints: Mapping[int, Checkpoint],
    probes: Callable[[nn.Module], Iterable[Probe]],
    tokens: Int[Tensor, "B T"],
    *,
    path: str | Path | None = None,
    load: Callable[[Any], nn.Module] = load_model,
    forward: Callable[[nn.Module, Tensor], Any] = lambda model, tokens: model(tokens),
    progress: bool = True,
) -> xr.Dataset:
    """What ``probes`` see of ``tokens`` in every checkpoint, by rising step; one model in memory at a time.

        record = measure_series({0: "run/0.safetensors", 100: "run/100.safetensors"}, lambda model: [Sinks()], tokens)

    checkpoints  step -> a file for ``load``, or a function that returns the model
    probes       new probes for a model
    path         a record on disk (zarr) that grows by a row a checkpoint; steps that it holds are not measured again
    load         file -> model; `checkpoints.load_model` unless given, or from_pretrained of a Hugging Face class

    Raises Refusal for no checkpoints and for a path that holds rows of other tokens, and whatever ``load`` and the
    probes raise; the rows before are on disk then, and the same call goes on where it stopped.
    """
    if not checkpoints:
        raise Refusal("measure_series", "at least one checkpoint", "none", "pass {step: file}")
    digest = hashlib.sha256(tokens.cpu().numpy().tobytes()).hexdigest()
    rows = None if path is None else records.Appended(path)
    done = rows.steps if rows is not None else []
    if rows is not None and done and rows.load().attrs.get("tokens_sha256") != digest:
        raise Refusal(
            "measure_series", f"the tokens that {path} was begun with", "others", "pass those, or choose another path"
        )
    found = {}
    for step in tqdm(sorted(set(checkpoints) - set(done)), unit="checkpoint", disable=not progress):
        model = _opened(checkpoints[step], load)
        record = measure(model, list(probes(model)), lambda model: forward(model, tokens))
        del model
        record = record.assign_attrs(tokens_sha256=digest)
        if rows is None:
            found[step] = record
        else:
            rows.append(record, step)
    return records.concat(list(found.values()), dim="step", labels=list(found)) if rows is None else rows.load()


def _opened(checkpoint: Checkpoint, load: Callable[[Any], nn.Module]) -> nn.Module:
    return load(checkpoint) if isinstance(checkpoint, str | Path) else checkpoint()


__all__ = ["measure_series"]
