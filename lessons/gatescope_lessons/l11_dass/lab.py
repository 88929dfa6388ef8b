"""The experiment of lesson 11 as one record: five ways to an architecture, each pruned to several levels; and what its
claims are judged by."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
import torch
import xarray as xr
from gatescope import data, records
from gatescope.records import Quantity
from gatescope.search import Architecture, Network, Search, SearchSpace

from gatescope_lessons.l11_dass.arms import (
    ARMS,
    EQUAL,
    KEPT,
    SPACE,
    Budget,
    architectures,
    held_out_accuracy,
    pruned,
    search_for,
    trained,
    weights_left,
)

SEEDS = (0, 1, 2, 3, 4)
#: The level that most claims speak of, and the one that a lead is compared with.
HARD, MILD = 0.02, 0.1
SPARSE, DENSE, RANDOM, SEPARABLE, PLAIN = ARMS
#: Steps between looks at the weights of operations.
EVERY = 10

_SOURCE = "Mousavi et al. 2022 (arXiv 2207.06968)"
_DARTS = "Liu et al. 2018 (arXiv 1806.09055)"
_READ = ("1", "accuracy on held-out digits", "share of 360 images whose largest logit is at their label", _SOURCE)
_ACCURACY = Quantity("accuracy", ("variant", "kept"), *_READ, "guessing: 0.1")
_EQUAL = Quantity("accuracy_equal", ("variant",), *_READ, "guessing: 0.1")
_LEFT = Quantity(
    "weights_left",
    ("variant", "kept"),
    "weights",
    "weights that are not 0",
    "number of w other than 0 in all matrices and kernels but the stem's",
    _SOURCE,
    "none: a count",
)
_CHOSEN = Quantity(
    "operation_chosen",
    ("variant", "kept", "edge", "operation"),
    "1",
    "operation of the architecture",
    "1 for the operation of an edge, 0 for the others; 0 throughout for an edge that the cell does not have",
    _DARTS,
    "one of each",
)
_WEIGHT = Quantity(
    "operation_weight",
    ("kept", "step", "edge", "operation"),
    "1",
    "weight of an operation",
    "softmax(alpha) of an edge",
    _DARTS,
    "uniform: 1 / number of operations",
)


def edge_labels(space: SearchSpace = SPACE) -> list[str]:
    """Edges as records name them, source→node."""
    return [f"{source}→{node}" for source, node in space.edges]


def one_hot(architecture: Architecture, space: SearchSpace = SPACE) -> np.ndarray:
    """[edges operations] of 0 and 1."""
    places = architecture.by_place
    return np.array([[float(places.get(place) == name) for name in space.operations] for place in space.edges])


def measure_seed(seed: int, *, kept: Sequence[float] = KEPT, budget: Budget | None = None) -> xr.Dataset:
    """Every arm of one seed, at every level and at an equal number of weights."""
    budget = budget or Budget()
    dense = search_for(0.0, seed, budget).run()
    sparse = {level: dense if level == 1 else search_for(1 - level, seed, budget).run() for level in kept}
    architecture = architectures(seed, kept, budget, dense, sparse)
    found = {(arm, level): architecture(arm, level) for arm in ARMS for level in kept}
    networks: dict[Architecture, Network] = {}
    for one in found.values():
        if one not in networks:
            networks[one] = trained(one, seed, budget.train)
    left = {pair: pruned(networks[one], pair[1], seed, budget.tune) for pair, one in found.items()}
    equal = [_at_equal_number(networks[found[arm, min(kept)]], seed, budget) for arm in ARMS]

    def table(of: Callable[[Network], float]) -> np.ndarray:
        return np.array([[of(left[arm, level]) for level in kept] for arm in ARMS])

    coords = {"variant": list(ARMS), "kept": list(kept)}
    cells = {"edge": edge_labels(), "operation": list(SPACE.operations)}
    chosen = np.array([[one_hot(found[arm, level]) for level in kept] for arm in ARMS])
    steps, weights = _histories([sparse[level] for level in kept])
    return records.new(
        {
            "accuracy": _ACCURACY.variable(table(held_out_accuracy), coords, baseline_value=0.1),
            "accuracy_equal": _EQUAL.variable(np.array(equal), coords, baseline_value=0.1),
            "weights_left": _LEFT.variable(table(weights_left), coords),
            "operation_chosen": _CHOSEN.variable(chosen, {**coords, **cells}),
            "operation_weight": _WEIGHT.variable(
                weights, {**coords, **cells, "step": steps}, baseline_value=1 / len(SPACE.operations)
            ),
        }
    )


def _at_equal_number(network: Network, seed: int, budget: Budget) -> float:
    share = min(1.0, EQUAL / weights_left(network))
    return held_out_accuracy(pruned(network, share, seed, budget.tune))


def _histories(searches: Sequence[Search]) -> tuple[list[int], np.ndarray]:
    steps = list(range(0, searches[0].step + 1, EVERY))
    return steps, np.array([[search.history[step] for step in steps] for search in searches])


def measure(profile: str = "full", *, seeds: Sequence[int] | None = None, jobs: int = 2) -> xr.Dataset:
    """Everything, along ``seed``; ``jobs`` seeds at a time, one thread each. ``quick`` takes one seed and a tenth of
    the steps, in this process."""
    quick = profile == "quick"
    seeds = seeds or (SEEDS[:1] if quick else SEEDS)
    if quick:
        return records.concat([_quick_seed(seed) for seed in seeds], dim="seed", labels=list(seeds))
    with multiprocessing.get_context("spawn").Pool(jobs, torch.set_num_threads, (1,)) as pool:
        return records.concat(pool.map(measure_seed, seeds, chunksize=1), dim="seed", labels=list(seeds))


def _quick_seed(seed: int) -> xr.Dataset:
    budget = Budget(search=10, dense=3, candidates=2, train=20, tune=10)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measure_seed(seed, budget=budget)
    finally:
        torch.set_num_threads(threads)


MEASURE = measure


def published() -> xr.Dataset:
    """The record in data/ that the claims are judged by. Raises DataError when it is missing or changed."""
    return records.load(data.path("measured/l11_dass.nc"))


def lead(record: xr.Dataset, over: str, kept: float = HARD) -> np.ndarray:
    """Accuracy of the sparse search's architecture minus that of another arm's, one value a seed."""
    at = record.accuracy.sel(kept=kept)
    return (at.sel(variant=SPARSE) - at.sel(variant=over)).values


def lost(record: xr.Dataset, arm: str, kept: float = HARD) -> np.ndarray:
    """Accuracy of an arm with the share ``kept`` of its weights, minus with all of them, one value a seed."""
    own = record.accuracy.sel(variant=arm)
    return (own.sel(kept=kept) - own.sel(kept=1.0)).values


def differing(one: xr.DataArray, other: xr.DataArray) -> float:
    """Share of the edges on which two architectures, as `one_hot` gives them, differ."""
    return float((one.values != other.values).any(-1).mean())


def change_by_sparsity(record: xr.Dataset, kept: float = HARD) -> np.ndarray:
    """Share of edges on which the sparse and the dense search of a seed differ, one value a seed."""
    chosen = record.operation_chosen.sel(kept=kept)
    return np.array(
        [
            differing(chosen.sel(variant=SPARSE, seed=seed), chosen.sel(variant=DENSE, seed=seed))
            for seed in record.seed.values
        ]
    )


def change_by_seed(record: xr.Dataset) -> np.ndarray:
    """Mean share of edges on which the dense search of a seed differs from those of the others, one value a seed."""
    chosen = record.operation_chosen.sel(kept=1.0, variant=DENSE)
    seeds = record.seed.values.tolist()
    found: dict[int, list[float]] = {seed: [] for seed in seeds}
    for one, other in combinations(seeds, 2):
        share = differing(chosen.sel(seed=one), chosen.sel(seed=other))
        found[one].append(share)
        found[other].append(share)
    return np.array([np.mean(shares) for shares in found.values()])


def equal_lead(record: xr.Dataset, over: str = DENSE) -> np.ndarray:
    """As `lead`, at an equal number of weights instead of an equal share."""
    at = record.accuracy_equal
    return (at.sel(variant=SPARSE) - at.sel(variant=over)).values


def arms_table(record: xr.Dataset, kept: float = HARD) -> pd.DataFrame:
    """Per arm, means over seeds: accuracy with all weights, at a level, how many weights that leaves, and accuracy at
    an equal number of weights."""
    mean = record.mean("seed")
    rows = {
        arm: {
            "all weights": f"{float(mean.accuracy.sel(variant=arm, kept=1.0)):.1%}",
            f"{kept:.0%} of them": f"{float(mean.accuracy.sel(variant=arm, kept=kept)):.1%}",
            "weights left": f"{float(mean.weights_left.sel(variant=arm, kept=kept)):.0f}",
            f"{EQUAL} weights each": f"{float(mean.accuracy_equal.sel(variant=arm)):.1%}",
        }
        for arm in ARMS
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm")


def chosen_table(record: xr.Dataset, variant: str, kept: float) -> pd.DataFrame:
    """The operation of every edge, a row a seed."""
    chosen = record.operation_chosen.sel(variant=variant, kept=kept)
    names = record.operation.values[chosen.argmax("operation").values]
    return pd.DataFrame(names, index=pd.Index(record.seed.values, name="seed"), columns=record.edge.values)


#: Name in claims/*.toml -> one effect a seed.
METRICS: dict[str, Callable[[xr.Dataset], np.ndarray]] = {
    "accuracy_sparse_minus_dense_2": partial(lead, over=DENSE),
    "accuracy_dense_2_minus_whole": partial(lost, arm=DENSE),
    "lead_over_dense_2_minus_10": lambda record: lead(record, DENSE) - lead(record, DENSE, MILD),
    "edges_sparse_from_dense_minus_between_seeds": lambda record: change_by_sparsity(record) - change_by_seed(record),
    "accuracy_sparse_minus_separable_2": partial(lead, over=SEPARABLE),
    "accuracy_sparse_minus_random_2": partial(lead, over=RANDOM),
}
