"""The one training loop: seeded, watchable while it runs, resumable to the bit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gatescope import checkpoints, records, specs
from gatescope.errors import DataError, NonFiniteError, Refusal
from gatescope.models import LMConfig, TinyLM, next_token_nll
from gatescope.probes import Probe
from gatescope.recorder import measure

_CHECKPOINT, _RECORDS = "training.safetensors", "records"
#: Optimiser -> what it remembers of each parameter.
_MOMENTS = {"adam": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}


@runtime_checkable
class Task(Protocol):
    """What can be trained on."""

    def batch(self, seed: int | Sequence[int], size: int) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"] | None]:
        """``size`` token sequences, the same for the same seed, and the query positions whose loss is told apart."""


@runtime_checkable
class LabelledTask(Protocol):
    """What can be trained on where each input has one label; the model is called as ``model(inputs)``."""

    def batch(self, seed: int | Sequence[int], size: int) -> tuple[Tensor, Int[Tensor, " B"]]:
        """``size`` inputs, the same for the same seed, and their labels."""

    def nll(self, model: nn.Module, inputs: Tensor, labels: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The loss of each label, in nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    """How a model is trained; the defaults are those of the small synthetic tasks.

    steps             optimiser steps
    batch             sequences a step
    optimizer         "adam", or "sgd" with a momentum of betas[0]
    lr, betas         its own; lr is the plateau of the schedule
    clip              largest norm of the whole gradient
    warmup            steps of linear warm-up
    decay_share       share of all steps, at the end, over which lr falls linearly to 0
    seed              initial weights and order of data
    scored            whose loss is minimised: "all" positions, or those the task "marked"
    record_every      steps between records, when there are probes
    record_batch      sequences of the fixed held-out batch that records are made on
    checkpoint_every  steps between checkpoints, when there is a folder

    Raises Refusal for values that train nothing.
    """

    steps: int = 1000
    batch: int = 32
    lr: float = 5e-3
    optimizer: Literal["adam", "sgd"] = "adam"
    betas: tuple[float, ...] = (0.9, 0.99)
    clip: float = 1.0
    warmup: int = 100
    decay_share: float = 0.2
    seed: int = 0
    scored: Literal["all", "marked"] = "all"
    record_every: int = 100
    record_batch: int = 32
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "record_every", "record_batch", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise Refusal("TrainSpec", f"{name} >= 1", f"{getattr(self, name)}", "pass a positive number")
        if self.warmup < 0 or self.seed < 0:
            raise Refusal("TrainSpec", "warmup >= 0 and seed >= 0", f"{self.warmup}, {self.seed}", "use 0")
        if not (self.lr > 0 and self.clip > 0 and math.isfinite(self.lr)):
            raise Refusal("TrainSpec", "lr > 0 and clip > 0", f"lr={self.lr}, clip={self.clip}", "use 5e-3 and 1.0")
        if self.optimizer not in _MOMENTS:
            raise Refusal("TrainSpec", "optimizer 'adam' or 'sgd'", repr(self.optimizer), "choose one of them")
        if self.scored not in ("all", "marked"):
            raise Refusal("TrainSpec", "scored 'all' or 'marked'", repr(self.scored), "choose one of them")
        if not 0 <= self.decay_share <= 1:
            raise Refusal("TrainSpec", "decay_share in [0, 1]", f"{self.decay_share}", "the usual value is 0.2")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise Refusal("TrainSpec", "two betas in [0, 1)", f"{self.betas}", "use (0.9, 0.99)")

    @property
    def remembered(self) -> tuple[str, ...]:
        """What the optimiser keeps of each parameter from step to step."""
        return () if self.optimizer == "sgd" and not self.betas[0] else _MOMENTS[self.optimizer]

    def lr_at(self, step: int) -> float:
        """Learning rate of step 0..steps-1: linear warm-up, plateau, linear decay that would reach 0 at ``steps``."""
        up = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        decay = self.decay_share * self.steps
        down = min(1.0, (self.steps - step) / decay) if decay else 1.0
        return self.lr * up * down


@dataclass(frozen=True, slots=True)
class Progress:
    """One finished step.

    step          steps finished so far
    loss          mean loss of the scored positions of its batch, before the update, nats
    trigger_loss  the same over the positions the task marked; None if it marked none
    lr            learning rate of the update
    record        what the probes saw after the update, when this step was recorded
    """

    step: int
    loss: float
    trigger_loss: float | None
    lr: float
    record: xr.Dataset | None = None


class Training:
    """A training run as an iterable of `Progress`: break out of it, look, and iterate again to go on.

        training = Training(bigram_config(), BigramBinding(), bigram_train_spec())
        for progress in training:
            draw(progress.loss)                 # leaving this loop pauses the run
        training.run()                          # or, with a progress bar, to the end

    model    a TinyLM or another model that has a ``config``, trained in place, or an LMConfig, whose weights are then
             drawn from spec.seed
    probes   measured at step 0 and every spec.record_every steps on a fixed held-out batch, see `record`
    folder   where checkpoints go; a checkpoint found there is resumed. The batch of step n depends on (seed, n) alone,
             so a resumed run ends with the very bits of an uninterrupted one (on one thread)

    Raises DataError for a checkpoint that is corrupt or belongs to another run.
    """

    def __init__(
        self,
        model: nn.Module | LMConfig,
        task: Task | LabelledTask,
        spec: TrainSpec,
        probes: Sequence[Probe] = (),
        folder: str | Path | None = None,
    ) -> None:
        self.model: Any = TinyLM(model, init_seed=spec.seed) if isinstance(model, LMConfig) else model
        self.task, self.spec, self.probes = task, spec, tuple(probes)
        self.folder = None if folder is None else Path(folder)
        self.step = 0
        self.losses: list[float] = []
        self.trigger_losses: list[float | None] = []
        self._records: dict[int, xr.Dataset] = {}
        self._unsaved: list[int] = []
        self._parameters = dict(self.model.named_parameters())
        self._optimizer = _optimizer(self._parameters.values(), spec)
        if self.folder is not None and (self.folder / _CHECKPOINT).exists():
            self._resume(self.folder)

    def __iter__(self) -> Iterator[Progress]:
        if self.step == 0 and self.probes and not self._records:
            self._measure()
        while self.step < self.spec.steps:
            yield self._advance()

    def run(self, progress: bool = True) -> Training:
        """Train to the end, with a progress bar unless ``progress`` is False. Returns itself."""
        if not progress:
            for _ in self:
                pass
            return self
        from tqdm.auto import tqdm

        with tqdm(total=self.spec.steps, initial=self.step, unit="step", mininterval=0.5) as bar:
            for state in self:
                bar.set_postfix_str(f"loss {state.loss:.3f}", refresh=False)
                bar.update()
        return self

    @property
    def record(self) -> xr.Dataset:
        """Everything the probes measured so far, along dim ``step``. Raises Refusal when nothing was."""
        if not self._records:
            raise Refusal(
                "Training.record", "probes that have measured", "none", "pass probes=[...] and run some steps"
            )
        return records.concat(list(self._records.values()), "step", list(self._records))

    def _advance(self) -> Progress:
        spec, step = self.spec, self.step
        self._optimizer.zero_grad()
        try:
            nll, marked = self._nll(*self.task.batch((spec.seed, step), spec.batch))
        except NonFiniteError as error:
            raise self._diverged(error.got) from error
        loss = (nll if spec.scored == "all" else self._marked(marked)).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), spec.clip, foreach=True)
        if not norm.isfinite():
            raise self._diverged("a gradient that is not finite")
        lr = self._optimizer.param_groups[0]["lr"] = spec.lr_at(step)
        self._optimizer.step()
        self.step += 1
        self.losses.append(loss.item())
        trigger_loss = marked.mean().item() if marked is not None and marked.numel() else None
        self.trigger_losses.append(trigger_loss)
        due = self.step == spec.steps
        record = self._measure() if self.probes and (due or self.step % spec.record_every == 0) else None
        if self.folder is not None and (due or self.step % spec.checkpoint_every == 0):
            self.save()
        return Progress(self.step, self.losses[-1], trigger_loss, lr, record)

    def _nll(self, inputs: Tensor, second: Any) -> tuple[Tensor, Tensor | None]:
        """All losses of a batch, and those of the positions its task marks."""
        if isinstance(self.task, LabelledTask):
            return self.task.nll(self.model, inputs, second), None
        nll = next_token_nll(self.model, inputs)
        return nll, None if second is None else nll[second[:, :-1]]

    def _marked(self, marked: Tensor | None) -> Tensor:
        if marked is None or not marked.numel():
            raise Refusal("Training", "a task that marks positions", "none marked", "use scored='all'")
        return marked

    def _diverged(self, got: str) -> NonFiniteError:
        return NonFiniteError(
            "Training",
            f"a finite loss and gradient at step {self.step}",
            got,
            f"lower lr (now {self.spec.lr_at(self.step):g}); training.model still holds the weights before this step",
        )

    def _measure(self) -> xr.Dataset:
        tokens, _ = self.task.batch((self.spec.seed, 0, 1), self.spec.record_batch)
        record = measure(self.model, self.probes, lambda model: model(tokens), seed=self.spec.seed)
        self._records[self.step] = record
        self._unsaved.append(self.step)
        return record

    def save(self) -> None:
        """Write a checkpoint to the folder now. Raises Refusal without a folder, DataError when it cannot be written;
        the run in memory is untouched and can go on either way."""
        if self.folder is None:
            raise Refusal("Training.save", "a folder", "none", "pass folder=... when making the Training")
        tensors = {f"model.{name}": value for name, value in self._parameters.items()}
        for name, parameter in self._parameters.items():
            state = self._optimizer.state[parameter]
            tensors |= {f"{moment}.{name}": state[moment] for moment in self.spec.remembered}
        while self._unsaved:
            records.save(self._records[self._unsaved[0]], self.folder / _RECORDS / f"{self._unsaved[0]:07d}.nc")
            self._unsaved.pop(0)
        history = {"losses": self.losses, "trigger_losses": self.trigger_losses}
        metadata = {"step": self.step, "history": history, "run": self._identity()}
        checkpoints.write_tensors(self.folder / _CHECKPOINT, tensors, metadata)

    def _resume(self, folder: Path) -> None:
        path = folder / _CHECKPOINT
        tensors, metadata = checkpoints.read_tensors(path)
        found, ours = metadata.get("run"), self._identity()
        if found != ours:
            raise DataError(
                "Training",
                f"a checkpoint of this run in {path}",
                f"another {', '.join(_differences(ours, found)) or 'run'}",
                "choose another folder, or delete this one to start again",
            )
        groups: dict[str, dict[str, Tensor]] = {group: {} for group in ("model", *self.spec.remembered)}
        for name, tensor in tensors.items():
            group, _, rest = name.partition(".")
            if group in groups:
                groups[group][rest] = tensor
        checkpoints.load_weights(self.model, groups["model"], path)
        self.step = metadata["step"]
        for name, parameter in self._parameters.items():
            held = {moment: groups[moment][name] for moment in self.spec.remembered}
            self._optimizer.state[parameter] = {"step": torch.tensor(float(self.step)), **held}
        self.losses, self.trigger_losses = metadata["history"]["losses"], metadata["history"]["trigger_losses"]
        if self.probes:
            found = {int(path.stem): path for path in sorted((folder / _RECORDS).glob("*.nc"))}
            self._records = {step: records.load(path) for step, path in found.items() if step <= self.step}

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to belong to this run, as JSON gives it back."""
        task: dict[str, Any] = specs.to_dict(self.task) if is_dataclass(self.task) else {}
        return {
            "config": self.model.config.to_dict(),
            "train": specs.to_dict(self.spec),
            "task": {"name": type(self.task).__name__, **task},
        }


def _optimizer(parameters: Iterable[nn.Parameter], spec: TrainSpec) -> torch.optim.Optimizer:
    if spec.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=spec.lr, momentum=spec.betas[0], fused=True)
    return torch.optim.Adam(parameters, lr=spec.lr, betas=(spec.betas[0], spec.betas[1]), fused=True)


def _differences(ours: Any, found: Any, where: str = "") -> list[str]:
    """Dotted names of the values that differ between two nested dictionaries."""
    if isinstance(ours, dict) and isinstance(found, dict):
        names = [*ours, *(name for name in found if name not in ours)]
        nested = [_differences(ours.get(name), found.get(name), f"{where}.{name}".strip(".")) for name in names]
        return [name for group in nested for name in group]
    return [] if ours == found else [where]


__all__ = ["LabelledTask", "Progress", "Task", "TrainSpec", "Training"]
