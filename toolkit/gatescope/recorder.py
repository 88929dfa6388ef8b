"""Recording while a model trains, in any training loop: a row every so many steps, and the run as if nobody looked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor, nn

from gatescope.errors import Refusal
from gatescope.probes import Probe
from gatescope.records import Appended
from gatescope.scope import Scope

_RECORD, _SCALARS = "record.zarr", "tensorboard"


class Recorder:
    """Measures ``model`` with ``probes`` while a loop of your own trains it, and keeps the rows in ``folder``.

        recorder = Recorder(model, [Sinks(), Entropy()], "runs/one", every=50, tokens=held_out)
        for step in range(1, 10_001):
            ...                              # forward, backward
            optimizer.step()
            recorder.step(step)              # every 50 steps, on the held-out tokens
        record = recorder.record             # along step, also records.load("runs/one/record.zarr")

    or, on the training batch itself, `with recorder.watching(step): loss = model(tokens)...`.

    A step that is recorded is not recorded again, so a loop that resumes just goes on. A step below some that are
    recorded means that the run went back to an older checkpoint: the rows after it are dropped, and then replaced as
    the run comes by again. So never begin a resumed loop with step(0), which drops all rows but its own.

    every        steps between rows
    tokens       the fixed held-out batch that `step` measures
    forward      how to call the model on it, model(tokens) by default
    tensorboard  write means over each layer as scalars to folder/tensorboard as well

    Raises Refusal for ``every`` below 1, for no probes, and for tensorboard=True where that package is missing;
    DataError for a folder that holds something else.
    """

    def __init__(
        self,
        model: nn.Module,
        probes: Iterable[Probe],
        folder: str | Path,
        every: int = 50,
        tokens: Int[Tensor, "B T"] | None = None,
        *,
        forward: Callable[[nn.Module, Tensor], Any] = lambda model, tokens: model(tokens),
        tensorboard: bool = False,
    ) -> None:
        if every < 1:
            raise Refusal("Recorder", "every >= 1", str(every), "record every 50 steps")
        self.model, self.probes, self.every, self.tokens = model, tuple(probes), every, tokens
        Scope(model, self.probes)
        self._forward = forward
        self._rows = Appended(Path(folder) / _RECORD)
        self._scalars = _Scalars(Path(folder) / _SCALARS) if tensorboard else None

    @property
    def record(self) -> xr.Dataset:
        """All rows, along dim ``step``. Raises DataError when there is none."""
        return self._rows.load()

    @property
    def steps(self) -> list[int]:
        """The steps recorded, in order."""
        return self._rows.steps

    def step(self, step: int) -> xr.Dataset | None:
        """Measure the held-out tokens if ``step`` is a multiple of ``every``; call it after the optimiser's step.

        The model is in eval mode meanwhile. Its modes and the random state of torch are as before when this returns, so
        a run with a recorder ends with the same bits as one without. Returns the row, or None where there is none.
        Raises Refusal without tokens, and what Appended.append raises.
        """
        if not self._due(step):
            return None
        if self.tokens is None:
            raise Refusal(
                "Recorder.step", "a held-out batch", "none", "pass tokens=..., or use recorder.watching(step)"
            )
        tokens = self.tokens
        record = measure(self.model, self.probes, lambda model: self._forward(model, tokens))
        self._keep(record, step)
        return record

    @contextmanager
    def watching(self, step: int) -> Iterator[None]:
        """Measure what the model does inside the block, if ``step`` is a multiple of ``every``.

        Nothing is run twice; the model stays in its mode. Attention is computed with statistics inside the block, which
        may round otherwise than without. When the block raises, no row is kept.
        """
        if not self._due(step):
            yield
            return
        for probe in self.probes:
            probe.reset()
        with Scope(self.model, self.probes) as scope:
            yield
        self._keep(scope.record(created=False), step)

    def _due(self, step: int) -> bool:
        if step < 0:
            raise Refusal("Recorder", "a step of 0 or more", str(step), "count optimiser steps")
        self._rows.drop_after(step)
        return step % self.every == 0 and self._rows.steps[-1:] != [step]

    def _keep(self, record: xr.Dataset, step: int) -> None:
        self._rows.append(record, step)
        if self._scalars is not None:
            self._scalars.write(record, step)


def measure(model: nn.Module, probes: Iterable[Probe], forward: Callable[[nn.Module], Any], **attrs: Any) -> xr.Dataset:
    """What ``probes``, emptied first, see in ``forward(model)``, without leaving a trace in the model or torch's random
    state; ``attrs`` as Scope.record. The time is left out, so that the same measurement gives the same record."""
    probes = tuple(probes)
    for probe in probes:
        probe.reset()
    with _undisturbed(model), Scope(model, probes) as scope:
        forward(model)
    return scope.record(created=False, **attrs)


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, and the random state of the CPU and of the model's GPUs put back."""
    modes = {module: module.training for module in model.modules()}
    gpus = sorted({weight.device.index for weight in model.parameters() if weight.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=gpus), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, training in modes.items():
            module.training = training


class _Scalars:
    """Means over each layer, for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise Refusal(
                "Recorder(tensorboard=True)",
                "the package tensorboard",
                str(error),
                "pip install tensorboard, or leave it out: recorder.record holds the same numbers",
            ) from error
        self._make = SummaryWriter

    def write(self, record: xr.Dataset, step: int) -> None:
        """One scalar a variable and layer; layers that hold NaN are left out."""
        if self._writer is None:
            self._writer = self._make(log_dir=str(self._folder), purge_step=step)
        for name, variable in record.data_vars.items():
            means = variable.astype("float64").mean([dim for dim in variable.dims if dim != "layer"])
            for value in means.dropna("layer") if "layer" in means.dims else [means]:
                tag = f"{name}/{int(value.layer)}" if "layer" in means.dims else str(name)
                self._writer.add_scalar(tag, float(value), step)
        self._writer.flush()


__all__ = ["Recorder", "measure"]
