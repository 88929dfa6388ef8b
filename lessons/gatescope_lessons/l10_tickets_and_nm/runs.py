"""Digits, the network that learns them, and one way to train and test it: shared by the experiments of lesson 10."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from gatescope.models import Classifier, ClassifierConfig, accuracy
from gatescope.tasks import Digits
from gatescope.train import Training, TrainSpec
from torch import nn

TASK = Digits()
#: LeNet-300-100 for tickets; widths that groups of 16 divide, for N:M.
LENET, BLOCKS = ClassifierConfig(), ClassifierConfig(hidden=(256, 128))
#: Optimiser steps of a run, and steps between measurements.
STEPS, EVERY = 400, 25


def spec(seed: int, steps: int = STEPS, **changes: int | float) -> TrainSpec:
    """Adam at 1.2e-3 on batches of 60, as Frankle and Carbin 2018 train LeNet; no warm-up and no decay, and no
    gradient is ever as large as the clip."""
    plain = {"batch": 60, "lr": 1.2e-3, "clip": 1e3, "warmup": 0, "decay_share": 0.0}
    return TrainSpec(steps=steps, betas=(0.9, 0.999), seed=seed, **plain | changes)  # type: ignore[arg-type]


def lenet(seed: int) -> Classifier:
    """The untrained LeNet-300-100 of a seed."""
    return Classifier(LENET, init_seed=seed)


def measured_steps(model: nn.Module, seed: int, steps: int = STEPS, task: Digits = TASK) -> Iterator[int]:
    """Train ``model`` in place; stops at step 0 and every `EVERY` steps for the caller to look."""
    yield 0
    for progress in Training(model, task, spec(seed, steps)):
        if progress.step % EVERY == 0 or progress.step == steps:
            yield progress.step


def train(model: nn.Module, seed: int, steps: int = STEPS) -> nn.Module:
    """Train ``model`` in place on the digits, and return it."""
    Training(model, TASK, spec(seed, steps)).run(progress=False)
    return model


def held_out_accuracy(model: nn.Module) -> float:
    """Share of the held-out digits that are read right."""
    return accuracy(model, *TASK.test)


@torch.no_grad()
def held_out_nll(model: nn.Module) -> float:
    """Mean loss of the held-out digits, nats."""
    return float(TASK.nll(model, *TASK.test).mean())


def learning_curve(model: nn.Module, seed: int, steps: int = STEPS) -> dict[int, float]:
    """Test accuracy at step 0 and every `EVERY` steps; ``model`` is trained in place."""
    return {step: held_out_accuracy(model) for step in measured_steps(model, seed, steps)}
