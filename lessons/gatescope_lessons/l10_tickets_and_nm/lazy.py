"""Lazy neurons: how many hidden activations are not 0, while transformers and a two-layer network learn."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr
from gatescope import records
from gatescope.models import AttentionSpec, Classifier, ClassifierConfig, LMConfig, MLPSpec
from gatescope.probes import ActivationSparsity
from gatescope.records import Quantity
from gatescope.tasks import BigramBinding, Digits, RandomTokens
from gatescope.train import Training, TrainSpec

from gatescope_lessons.l10_tickets_and_nm import runs

#: What is learnt: a bigram chain, random sequences by heart, digits, digits with random labels.
Data = Literal["chain", "by heart", "digits", "digits, random labels"]
#: Optimiser steps of a transformer.
STEPS = 150


@dataclass(frozen=True, slots=True)
class Learner:
    """One row of the experiment.

    data    what is learnt
    width   of the hidden layers of the MLPs
    blocks  of the transformer; 0: no transformer but a two-layer network
    """

    data: Data
    width: int
    blocks: int = 2

    def training(self, seed: int, steps: int | None = None) -> Training:
        """A run that reads the share of zero activations every 25 steps; not started."""
        probes = [ActivationSparsity(0)]
        if not self.blocks:
            task = Digits(labels="random" if "random" in self.data else "true", label_seed=seed)
            model = Classifier(ClassifierConfig(hidden=(self.width,)), init_seed=seed)
            spec = runs.spec(seed, steps or runs.STEPS, record_every=runs.EVERY, record_batch=256)
            return Training(model, task, spec, probes)
        config = LMConfig(
            vocab=BigramBinding().vocab,
            d_model=64,
            n_layers=self.blocks,
            attention=AttentionSpec(n_heads=1, n_kv_heads=1, head_dim=64),
            mlp=MLPSpec("relu", self.width),
        )
        tasks: dict[str, Any] = {
            "chain": BigramBinding(),
            "by heart": RandomTokens(count=64, pool_seed=seed),
        }
        spec = TrainSpec(steps=steps or STEPS, warmup=50, seed=seed, record_every=runs.EVERY)
        return Training(config, tasks[self.data], spec, probes)


LEARNERS: dict[str, Learner] = {
    "transformer": Learner("chain", 256),
    "transformer, narrow": Learner("chain", 64),
    "transformer, wide": Learner("chain", 512),
    "transformer, by heart": Learner("by heart", 256),
    "network": Learner("digits", 256, blocks=0),
    "network, random labels": Learner("digits, random labels", 256, blocks=0),
    "network, wide, random labels": Learner("digits, random labels", 2048, blocks=0),
}

_ACTIVE = Quantity(
    "active",
    ("step",),
    "1",
    "share of hidden activations that are not 0",
    "share over samples, tokens, channels and layers of ReLU(.) > 0, on held-out batches",
    "Li et al. 2022 (arXiv 2210.06313)",
    "pre-activations symmetric around 0: 0.5",
)
_LOSS = Quantity(
    "lazy_loss",
    (),
    "nats",
    "training loss, mean of the last 20 steps",
    "-log p(next token or label)",
    "Li et al. 2022 (arXiv 2210.06313)",
    "guessing: log 33 = 3.50 for tokens, log 10 = 2.30 for digits",
)


def watched(learner: Learner, seed: int, steps: int | None = None) -> xr.Dataset:
    """One run to its end: the share of active neurons over steps, and the loss it came to."""
    training = learner.training(seed, steps).run(progress=False)
    active = 1 - training.record.activation_zeros.mean("layer")
    return records.new(
        {
            "active": _ACTIVE.variable(active.values, {"step": active.step.values}, baseline_value=0.5),
            "lazy_loss": _LOSS.variable(float(np.mean(training.losses[-20:]))),
        }
    )


def measure_lazy(seed: int, names: Collection[str] = tuple(LEARNERS), steps: int | None = None) -> xr.Dataset:
    """All learners of one seed along ``variant``; shorter runs hold NaN where longer ones go on."""
    found = [watched(LEARNERS[name], seed, steps) for name in names]
    every = sorted({int(step) for record in found for step in record.step.values})
    return records.concat([record.reindex(step=every) for record in found], dim="variant", labels=list(names))
