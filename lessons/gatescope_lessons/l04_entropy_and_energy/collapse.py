"""The same small model trained at an ordinary and at a far too high learning rate, its entropy watched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from gatescope import records
from gatescope.probes import Entropy
from gatescope.recipes import bigram_config, bigram_train_spec
from gatescope.records import Quantity
from gatescope.tasks import BigramBinding
from gatescope.train import Training

#: An ordinary learning rate of this task, and sixteen times as much.
RATES = (5e-3, 8e-2)
STEPS, EVERY = 300, 25
_ZHAI = "Zhai et al. 2023 (arXiv 2303.06296)"
_RUN = ("lr", "step")

_LOWEST = Quantity(
    "lowest_entropy",
    _RUN,
    "1",
    "normalised entropy of the most focused head",
    "min over layers and heads of the mean over rows of H_i / log n_i",
    _ZHAI,
    "uniform attention: 1",
)
_LOSS = Quantity(
    "train_loss",
    _RUN,
    "nats",
    "training loss",
    f"-log p(next token), mean over the {EVERY} steps before",
    "tasks.bigram_binding",
    "uniform guessing: log(vocab)",
)
_TRIGGER = Quantity(
    "train_trigger_loss",
    _RUN,
    "nats",
    "training loss where the context holds the answer",
    f"-log p(token), mean over the {EVERY} steps before",
    "tasks.bigram_binding",
    "uniform guessing: log(vocab)",
)
_ROUGH = Quantity(
    "loss_roughness",
    ("lr",),
    "nats",
    "roughness of the loss",
    "standard deviation of the change of loss from step to step, second half of training",
    _ZHAI,
    "a smooth curve: 0; here batches alone give some",
)


def run(lr: float, seed: int, steps: int = STEPS, every: int = EVERY) -> dict[str, np.ndarray]:
    """Train once; every ``every`` steps the lowest entropy and the mean losses since the last time."""
    spec = bigram_train_spec(seed, steps=steps, lr=lr, record_every=every, warmup=20, decay_share=0.0)
    losses, triggers, entropies = [], [], []
    for progress in Training(bigram_config(), BigramBinding(), spec, probes=[Entropy()]):
        losses.append(progress.loss)
        triggers.append(progress.trigger_loss)
        if progress.record is not None and progress.step:
            entropies.append(float(progress.record.entropy_normalised.min()))
    return {
        "lowest_entropy": np.array(entropies),
        "train_loss": np.reshape(losses, (-1, every)).mean(1),
        "train_trigger_loss": np.nanmean(np.reshape(np.array(triggers, dtype=float), (-1, every)), 1),
        "loss_roughness": np.diff(losses)[steps // 2 :].std(),
    }


def measure_training(seed: int, rates: Sequence[float] = RATES, steps: int = STEPS, every: int = EVERY) -> xr.Dataset:
    """Both learning rates; the same seed gives them the same weights and batches."""
    runs = [run(lr, seed, steps, every) for lr in rates]
    coords = {"lr": list(rates), "step": list(range(every, steps + 1, every))}
    return records.new(
        {
            quantity.name: quantity.variable(
                np.array([found[quantity.name] for found in runs]), {dim: coords[dim] for dim in quantity.dims}
            )
            for quantity in (_LOWEST, _LOSS, _TRIGGER, _ROUGH)
        }
    )
