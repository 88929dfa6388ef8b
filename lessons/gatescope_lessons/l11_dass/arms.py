"""Five ways to come to an architecture, and the one way in which all of them are then trained, pruned and tuned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch
from gatescope.models import accuracy
from gatescope.search import (
    STEM,
    Architecture,
    Network,
    Search,
    SearchSpace,
    SearchSpec,
    random_search,
    uniform_architecture,
)
from gatescope.sparsifiers import PruneSpec, hold_masks, prune
from gatescope.tasks import Digits
from gatescope.train import Training, TrainSpec
from torch import nn

TASK = Digits()
#: What a search trains and what it validates on; together they are the training images of TASK.
HALVES = Digits(fold="first half"), Digits(fold="second half")
SPACE = SearchSpace(nodes=2)
#: How an architecture was found. The last two are not searched for: every edge is the same.
ARMS = ("sparse search", "dense search", "random search", "all separable 3x3", "all conv 3x3")
#: Shares of the weights that stay.
KEPT = (1.0, 0.1, 0.02)
#: Weights, beyond those of the stem, that every arm keeps where they are compared at an equal number.
EQUAL = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Optimiser steps of every arm. A step of a search is two: of alpha and of the weights.

    search      steps of a search
    dense       of them, at its beginning, before weights are read sparse
    candidates  of random search, which share 2 * search steps
    train       steps of the found architecture, before it is pruned
    tune        and afterwards, with the mask held
    """

    search: int = 80
    dense: int = 20
    candidates: int = 4
    train: int = 150
    tune: int = 75

    def of_candidate(self) -> Budget:
        """What a candidate of random search is trained for: its part of the search, divided as the rest is."""
        steps = 2 * self.search // self.candidates
        tune = steps * self.tune // (self.train + self.tune)
        return Budget(train=steps - tune, tune=tune)


def search_for(sparsity: float, seed: int, budget: Budget, space: SearchSpace = SPACE) -> Search:
    """A search, not started; at a sparsity of 0 the dense one."""
    spec = SearchSpec(sparsity=sparsity, dense_steps=budget.dense, steps=budget.search, batch=32, seed=seed)
    return Search(space, spec, *HALVES)


def train_spec(seed: int, steps: int) -> TrainSpec:
    """Adam at 3e-3 on batches of 32, with a linear decay over the last fifth."""
    return TrainSpec(steps=steps, batch=32, lr=3e-3, betas=(0.9, 0.999), warmup=0, seed=seed)


def trained(
    architecture: Architecture, seed: int, steps: int, task: Digits = TASK, space: SearchSpace = SPACE
) -> Network:
    """The network of an architecture, its weights drawn from ``seed``, trained without any sparsity."""
    network = Network(space, architecture, init_seed=seed)
    Training(network, task, train_spec(seed, steps)).run(progress=False)
    return network


def pruned(network: Network, kept: float, seed: int, steps: int, task: Digits = TASK) -> Network:
    """A copy of a trained network in which every layer but the stem keeps the share ``kept`` of its weights, the
    largest, tuned with that mask held."""
    model = deepcopy(network)
    hold_masks(model, prune(model, PruneSpec(share=1 - kept, shares=((f"{STEM}.weight", 0.0),))))
    Training(model, task, train_spec(seed + 7919, steps)).run(progress=False)
    return model


def weights_left(network: nn.Module) -> int:
    """Weights of matrices and kernels, but for the stem's, that are not 0."""
    return sum(
        int(weight.count_nonzero())
        for name, weight in network.named_parameters()
        if weight.ndim > 1 and not name.startswith(f"{STEM}.")
    )


@torch.no_grad()
def validation_score(network: nn.Module, task: Digits) -> float:
    """Minus the mean loss on the training images of ``task``, which the network has not seen."""
    return -float(task.nll(network, *task.train).mean())


def random_architecture_at(kept: float, seed: int, budget: Budget, space: SearchSpace = SPACE) -> Architecture:
    """The best of a few candidates, each trained, pruned and tuned on one half, scored on the other."""
    own, (train, validation) = budget.of_candidate(), HALVES

    def score(architecture: Architecture) -> float:
        network = trained(architecture, seed, own.train, train, space)
        return validation_score(pruned(network, kept, seed, own.tune, train), validation)

    return random_search(space, score, budget.candidates, seed=seed)[0].architecture


def architectures(
    seed: int, kept: Sequence[float], budget: Budget, dense: Search, sparse: dict[float, Search]
) -> Callable[[str, float], Architecture]:
    """(arm, kept) -> its architecture. ``dense`` and ``sparse``, one a level, are searches that have ended."""
    found: dict[str, Callable[[float], Architecture]] = {
        "sparse search": lambda level: sparse[level].architecture,
        "dense search": lambda level: dense.architecture,
        "random search": partial(random_architecture_at, seed=seed, budget=budget),
        "all separable 3x3": lambda level: uniform_architecture(SPACE, "separable 3x3"),
        "all conv 3x3": lambda level: uniform_architecture(SPACE, "conv 3x3"),
    }
    return lambda arm, level: found[arm](level)


def held_out_accuracy(network: nn.Module) -> float:
    """Share of the held-out digits that are read right."""
    return accuracy(network, *TASK.test)
