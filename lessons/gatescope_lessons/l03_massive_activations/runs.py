"""What lesson 03 trains in search of massive activations: one small model, changed in one thing at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from gatescope import records
from gatescope.layers import AttentionSpec, MLPSpec
from gatescope.layers.mlp import MLPKind
from gatescope.models import LMConfig
from gatescope.probes import Massive
from gatescope.recorder import measure
from gatescope.tasks import BigramBinding
from gatescope.tasks.text import BYTE_VOCAB, byte_crops, load_topics
from gatescope.train import Training, TrainSpec
from jaxtyping import Int
from torch import Tensor

STEPS = 288
#: Regular points of a series; before the first of them come powers of two.
POINTS = 24
_SIZE, _LENGTH = 16, 48


@dataclass(frozen=True, slots=True)
class Bytes:
    """Crops of Python's help topics, byte by byte, each behind a BOS."""

    length: int = _LENGTH

    def batch(self, seed: int | Sequence[int], size: int) -> tuple[Int[Tensor, "B T"], None]:
        """``size`` crops; all positions count."""
        drawn = int(np.random.default_rng(seed).integers(2**31))
        return byte_crops(load_topics(), size, self.length, seed=drawn), None


TASKS: dict[str, tuple[BigramBinding | Bytes, int]] = {
    "bigram": (BigramBinding(length=_LENGTH), BigramBinding().vocab),
    "bytes": (Bytes(), BYTE_VOCAB),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to train a small model. Every sequence begins with a BOS, and nothing decays the weights."""

    n_layers: int = 4
    d_model: int = 32
    n_heads: int = 1
    mlp: MLPKind = "swiglu"
    tied: bool = False
    lr: float = 5e-3
    task: Literal["bigram", "bytes"] = "bigram"
    steps: int = STEPS

    @property
    def hidden(self) -> int:
        """Width inside the MLP: as many weights in either kind."""
        return 4 * self.d_model if self.mlp == "gelu" else 8 * self.d_model // 3

    @property
    def config(self) -> LMConfig:
        """The model."""
        attention = AttentionSpec(n_heads=self.n_heads, n_kv_heads=self.n_heads, head_dim=self.d_model // self.n_heads)
        return LMConfig(
            vocab=TASKS[self.task][1],
            d_model=self.d_model,
            n_layers=self.n_layers,
            attention=attention,
            mlp=MLPSpec(self.mlp, hidden=self.hidden),
            tie_embeddings=self.tied,
        )

    def training(self, seed: int, steps: int | None = None) -> Training:
        """A run of this arm, not started. The learning rate stays up to the end: a decay would bend the series."""
        steps = steps or self.steps
        spec = TrainSpec(steps=steps, batch=_SIZE, lr=self.lr, warmup=steps // 8, decay_share=0.0, seed=seed)
        return Training(self.config, TASKS[self.task][0], spec)


BASE = "4 layers"
ARMS: dict[str, Arm] = {
    BASE: Arm(),
    "2 layers": Arm(n_layers=2),
    "6 layers": Arm(n_layers=6),
    "4 heads": Arm(n_heads=4),
    "width 64": Arm(d_model=64),
    "GELU": Arm(mlp="gelu"),
    "tied embeddings": Arm(tied=True),
    "learning rate 0.02": Arm(lr=0.02),
    "bytes of English": Arm(task="bytes"),
    "2 layers, 4 x as long": Arm(n_layers=2, steps=4 * STEPS),
}
#: Those that differ from the base in nothing but the architecture.
ARCHITECTURES = tuple(ARMS)[:6]


def recorded_steps(steps: int) -> tuple[int, ...]:
    """0, powers of two up to the first regular point, then `POINTS` regular ones: the spacing of Pythia's checkpoints,
    on which the law was found."""
    every = max(steps // POINTS, 1)
    early = [2**power for power in range(20) if 2**power < every]
    return (0, *early, *range(every, every * POINTS + 1, every))


def record_run(arm: Arm, seed: int, steps: int | None = None) -> xr.Dataset:
    """Train one model; what Massive sees of 16 held-out sequences at `recorded_steps`, along ``step`` and ``layer``,
    and in the attribute ``loss`` the mean of the last 20 training losses, nats."""
    training = arm.training(seed, steps)
    tokens, _ = training.task.batch((seed, 0, 1), _SIZE)
    due = set(recorded_steps(training.spec.steps))

    def seen() -> xr.Dataset:
        return measure(training.model, [Massive(ranks=1)], lambda model: model(tokens))

    found = {0: seen()}
    for progress in training:
        if progress.step in due:
            found[progress.step] = seen()
    record = records.concat(list(found.values()), dim="step", labels=list(found))
    return record.assign_attrs(loss=float(np.mean(training.losses[-20:])))


__all__ = ["ARCHITECTURES", "ARMS", "BASE", "POINTS", "STEPS", "Arm", "Bytes", "record_run", "recorded_steps"]
