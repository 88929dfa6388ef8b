"""What the panels of lesson 11 compute while the learner waits: short searches, and what they lead to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeVar

import numpy as np
import torch
import xarray as xr
from gatescope import records
from gatescope.records import Quantity
from gatescope.search import Architecture, Search

from gatescope_lessons.l11_dass.arms import (
    SPACE,
    Budget,
    held_out_accuracy,
    pruned,
    search_for,
    trained,
    weights_left,
)
from gatescope_lessons.l11_dass.lab import edge_labels, one_hot

R = TypeVar("R")
#: Shares that a slider lets be read as 0.
SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.97, 0.99, 0.995, 0.999)
#: Less than half of the record's search, half of its training.
SHORT = Budget(search=30, dense=8, train=75, tune=35)

_WEIGHT = ("1", "weight of an operation", "softmax(alpha) of an edge", "Liu et al. 2018 (arXiv 1806.09055)")
_UNIFORM = "uniform: 1 / number of operations"
_NOW = Quantity("operation_weight", ("edge", "operation"), *_WEIGHT, _UNIFORM)
_CURVE = Quantity("operation_weight", ("variant", "step"), *_WEIGHT, _UNIFORM)
_CHOSEN = Quantity(
    "operation_chosen",
    ("edge", "operation"),
    "1",
    "operation of the architecture",
    "1 for the operation of an edge, else 0",
    "Liu et al. 2018 (arXiv 1806.09055)",
    "one of each",
)


def cell_record(weights: np.ndarray, architecture: Architecture, note: str) -> xr.Dataset:
    """Weights of operations and the architecture they lead to, for `views.cell_graph`."""
    coords = {"edge": edge_labels(), "operation": list(SPACE.operations)}
    uniform = 1 / len(SPACE.operations)
    return records.new(
        {
            "operation_weight": _NOW.variable(weights, coords, baseline_value=uniform),
            "operation_chosen": _CHOSEN.variable(one_hot(architecture), coords),
        },
        note=note,
    )


def weight_curves(search: Search, edge: str) -> xr.Dataset:
    """The weights of the operations of one edge over the steps of a search so far."""
    history = np.array(list(search.history))[:, edge_labels().index(edge)]
    coords = {"variant": list(SPACE.operations), "step": list(range(len(history)))}
    variable = _CURVE.variable(history.T, coords, baseline_value=1 / len(SPACE.operations))
    return records.new({"operation_weight": variable}, note=f"edge {edge}; node 0 is the input of the cell")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a short search led to.

    record         of the cell
    accuracy       on held-out digits, after training, pruning and tuning
    left           weights that are not 0, but for the stem's
    dense_accuracy, dense_left  of the architecture of a dense search of the same length, pruned alike
    same           whether both found the same architecture
    """

    record: xr.Dataset
    accuracy: float
    left: int
    dense_accuracy: float
    dense_left: int
    same: bool


@cache
def _short_search(sparsity: float, seed: int) -> Search:
    return _alone(lambda: search_for(sparsity, seed, SHORT).run())


def search_now(sparsity: float, seed: int = 0) -> Outcome:
    """Search with weights read sparse, derive, train, prune to the same sparsity, tune; and the same for a dense
    search. A few seconds; a sparsity that was searched for before is at hand."""
    sparse, dense = _short_search(sparsity, seed), _short_search(0.0, seed)
    (accuracy, left), (dense_accuracy, dense_left) = (
        _alone(partial(_finished, one.architecture, sparsity, seed)) for one in (sparse, dense)
    )
    note = f"search of {SHORT.search} steps at {sparsity:.1%} sparsity, seed {seed}"
    record = cell_record(sparse.supernet.operation_weights, sparse.architecture, note)
    same = sparse.architecture == dense.architecture
    return Outcome(record, accuracy, left, dense_accuracy, dense_left, same)


@cache
def _finished(architecture: Architecture, sparsity: float, seed: int) -> tuple[float, int]:
    network = pruned(trained(architecture, seed, SHORT.train), 1 - sparsity, seed, SHORT.tune)
    return held_out_accuracy(network), weights_left(network)


def _alone(compute: Callable[[], R]) -> R:
    """``compute()`` on one thread: the operations are too small for two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return compute()
    finally:
        torch.set_num_threads(threads)
