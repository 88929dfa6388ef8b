"""A small classifier and a short way to train it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from gatescope.models import Classifier, ClassifierConfig
from gatescope.tasks import Digits
from gatescope.train import Training, TrainSpec
from torch import nn

#: Names of its matrices, from input to output.
NAMES = ("layers.0.weight", "layers.1.weight", "layers.2.weight")


@pytest.fixture
def model() -> Classifier:
    """64-24-16-10."""
    return Classifier(ClassifierConfig(hidden=(24, 16)), init_seed=3)


@pytest.fixture
def train() -> Callable[[nn.Module], list[float]]:
    """Thirty steps on digits; returns the losses."""

    def run(model: nn.Module) -> list[float]:
        spec = TrainSpec(steps=30, batch=32, lr=3e-3, warmup=0, decay_share=0.0, seed=5)
        return Training(model, Digits(), spec).run(progress=False).losses

    return run
