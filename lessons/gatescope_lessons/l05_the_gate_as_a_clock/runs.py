"""What lesson 05 trains: nine small models that differ in what mixes positions, on four sizes of one task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gatescope import data
from gatescope.checkpoints import load_extra, load_model
from gatescope.errors import Refusal
from gatescope.layers import AttentionSpec, LinearAttentionSpec
from gatescope.models import LMConfig, TinyLM
from gatescope.probes import Gates
from gatescope.recall import GLA, SOFTMAX, accuracy
from gatescope.tasks import MQAR
from gatescope.train import Training, TrainSpec
from gatescope_kernels import Visibility

SEEDS = (0, 1, 2)
STEPS = 750
#: Steps between two points of a learning curve.
EVERY = 75


def _model(*mixers: AttentionSpec | LinearAttentionSpec) -> LMConfig:
    """Two blocks that only mix positions, D = 32. A short convolution lets a key see the token before it, so that all
    variants start from the same knowledge of order; there is no other."""
    return LMConfig(vocab=MQAR().vocab, d_model=32, n_layers=2, attention=mixers, mlp=None, init_std=0.1)


VARIANTS: dict[str, LMConfig] = {
    "softmax": _model(SOFTMAX, SOFTMAX),
    "gla": _model(GLA, GLA),
    "hybrid": _model(SOFTMAX, GLA),
    "fixed": _model(*[replace(GLA, decay="fixed")] * 2),
    "linear": _model(*[replace(GLA, decay="none")] * 2),
    "gla_k32": _model(*[replace(GLA, key_dim=32)] * 2),
    "scalar": _model(*[replace(GLA, decay="head")] * 2),
    "window": _model(*[replace(SOFTMAX, visibility=Visibility(window=8))] * 2),
    "delta": _model(*[replace(GLA, decay="head", update="delta")] * 2),
}

TASKS: dict[str, MQAR] = {
    "4 pairs": MQAR(pairs=4, length=16),
    "8 pairs": MQAR(pairs=8, length=32),
    "16 pairs": MQAR(pairs=16, length=64),
    "3 segments": MQAR(pairs=5, length=63, segments=3),
}


@dataclass(frozen=True, slots=True)
class Run:
    """One model to train: a variant, a task, a seed. The same seed gives all variants of a task the same batches."""

    variant: str
    task: str
    seed: int

    def __post_init__(self) -> None:
        for known, name in ((VARIANTS, self.variant), (TASKS, self.task)):
            if name not in known:
                raise Refusal("Run", f"one of {tuple(known)}", repr(name), "choose one of them")

    @property
    def checkpoint(self) -> str:
        """Its file in data/."""
        return f"checkpoints/l05/{self.task.replace(' ', '_')}-{self.variant}-s{self.seed}.safetensors"


#: Which variants are trained on which task.
TRAINED: dict[str, tuple[str, ...]] = {
    "3 segments": ("gla", "fixed", "linear"),
    "16 pairs": tuple(VARIANTS),
    "4 pairs": ("softmax", "gla"),
    "8 pairs": ("softmax", "gla"),
}


def training(run: Run, *, folder: Path | None = None, watched: bool = False, **changes: Any) -> Training:
    """A training of ``run``, not started: only answers are scored, since nothing else in a sequence can be known.

    folder   where to keep checkpoints and go on from one
    watched  the decay gates are read every 50 steps
    changes  of fields of `TrainSpec`, such as steps
    """
    steps = changes.pop("steps", STEPS)
    every = {"record_every": 50} if watched else {}
    spec = TrainSpec(
        steps=steps, warmup=round(0.3 * steps), decay_share=0.7, seed=run.seed, scored="marked", **every | changes
    )
    config = VARIANTS[run.variant]
    gated = any(getattr(mixer, "decay", "none") != "none" for mixer in config.mixers)
    return Training(config, TASKS[run.task], spec, probes=[Gates("decay")] if watched and gated else (), folder=folder)


def load(run: Run) -> TinyLM:
    """A trained model from data/, its digest checked. Raises DataError when the file is missing or changed."""
    return load_model(data.path(run.checkpoint)).eval()


def curve(run: Run) -> tuple[list[int], list[float]]:
    """Steps and accuracies of a run as it was trained."""
    extra = load_extra(data.path(run.checkpoint))
    return extra["steps"], extra["accuracy"]


__all__ = ["EVERY", "SEEDS", "STEPS", "TASKS", "TRAINED", "VARIANTS", "Run", "accuracy", "curve", "load", "training"]
