"""The experiments of lesson 12 as one record, and what its claims are judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
import xarray as xr
from gatescope import data, records

from gatescope_lessons.l12_spending_compute.learners import ALLOCATIONS, BUDGETS, SPEC, measure_learners
from gatescope_lessons.l12_spending_compute.leaving import METHODS, TRADES, measure_leaving

SEEDS = (0, 1, 2)


def measure(profile: str = "full", *, seeds: Sequence[int] | None = None) -> xr.Dataset:
    """Exits and learners, along ``seed``. ``quick`` takes one seed, one price, one budget and few steps."""
    quick = profile == "quick"
    seeds = seeds or (SEEDS[:1] if quick else SEEDS)
    leaving = {"trades": TRADES[1:2], "steps": (80, 40, 40)} if quick else {}
    learners = {"budgets": BUDGETS[1:2], "steps": (30, 10, 10), "size": 8} if quick else {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = [
            records.merge([measure_leaving(seed, **leaving), measure_learners(seed, **learners)])  # type: ignore[arg-type]
            for seed in seeds
        ]
    finally:
        torch.set_num_threads(threads)
    return records.concat(found, dim="seed", labels=list(seeds))


MEASURE = measure


def published() -> xr.Dataset:
    """The record in data/ that the claims are judged by. Raises DataError when it is missing or changed."""
    return records.load(data.path("measured/l12_spending_compute.nc"))


def of_exits(record: xr.Dataset) -> xr.Dataset:
    """What was measured of exits; its variants are METHODS."""
    names = ["exit_accuracy", "exit_ece", "exit_cost", "early_bias", "accuracy_at", "cost_at"]
    return record[names].sel(variant=list(METHODS))


def of_learners(record: xr.Dataset) -> xr.Dataset:
    """What was measured of learners; its variants are ALLOCATIONS."""
    names = ["acm_nll", "acm_share", "dense_nll", "needed", "difficulty"]
    return record[names].sel(variant=list(ALLOCATIONS))


def exits(record: xr.Dataset, variable: str, method: str) -> np.ndarray:
    """A quantity of a method, mean over prices, one value a seed."""
    return record[variable].sel(variant=method).mean("trade").values


def _gain(record: xr.Dataset, variable: str, over: str) -> np.ndarray:
    return exits(record, variable, METHODS[0]) - exits(record, variable, over)


def loss(record: xr.Dataset, allocation: str, budget: float | None = None) -> np.ndarray:
    """Loss of an allocation, at a budget or as mean over budgets, one value a seed."""
    own = record.acm_nll.sel(variant=allocation)
    return (own.mean("budget") if budget is None else own.sel(budget=budget)).values


def excess(record: xr.Dataset) -> xr.Dataset:
    """The loss of every allocation above that of the dense model, trained on as long, as the variable ``excess``."""
    own = of_learners(record)
    above = own.acm_nll - own.dense_nll.sel(setting="trained on", drop=True)
    above.attrs = {
        "units": "nats",
        "long_name": "loss above the dense model trained on as long",
        "note": "nats a byte, held-out texts",
        "baseline": "as good as the dense model: 0",
        "baseline_value": 0.0,
    }
    return above.to_dataset(name="excess")


def needed_share(record: xr.Dataset) -> xr.DataArray:
    """The mean share of learners that tokens need, (seed, layer)."""
    return (record.needed * record.learner).sum("learner") / SPEC.learners


def exit_table(record: xr.Dataset) -> pd.DataFrame:
    """Per method, means over seeds and prices: accuracy, calibration, cost and the bias of those that leave early."""
    rows = {
        name: {
            "accuracy": f"{exits(record, 'exit_accuracy', name).mean():.3f}",
            "calibration error": f"{exits(record, 'exit_ece', name).mean():.3f}",
            "cost": f"{exits(record, 'exit_cost', name).mean():.1%}",
            "bias of leaving early": f"{exits(record, 'early_bias', name).mean():+.3f}",
        }
        for name in METHODS
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("who decides")


def needed_table(record: xr.Dataset) -> pd.DataFrame:
    """Per layer, means over seeds: how many learners tokens need to stand in for the dense MLP."""
    own = record.needed.mean("seed")
    rows = {
        f"layer {layer}": {
            "one is enough": f"{float(own.sel(layer=layer, learner=slice(0, 1)).sum()):.0%}",
            "2 to 15": f"{float(own.sel(layer=layer, learner=slice(2, SPEC.learners - 1)).sum()):.0%}",
            "all 16 or more": f"{float(own.sel(layer=layer, learner=SPEC.learners)):.0%}",
            "mean": f"{float((own.sel(layer=layer) * own.learner).sum()):.1f}",
        }
        for layer in own.layer.values
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("share of tokens for which")


#: Name in claims/*.toml -> one effect a seed.
METRICS: dict[str, Callable[[xr.Dataset], np.ndarray]] = {
    "accuracy_joint_minus_confidence": partial(_gain, variable="exit_accuracy", over=METHODS[2]),
    "accuracy_joint_minus_apart": partial(_gain, variable="exit_accuracy", over=METHODS[1]),
    "ece_joint_minus_confidence": partial(_gain, variable="exit_ece", over=METHODS[2]),
    "bias_confidence": partial(exits, variable="early_bias", method=METHODS[2]),
    "share_needs_all": lambda record: record.needed.sel(learner=SPEC.learners).mean("layer").values,
    "layers_apart": lambda record: np.abs(needed_share(record).diff("layer").values[:, 0]),
    "nll_gate_quarter_minus_dense": lambda record: (
        loss(record, ALLOCATIONS[0], 0.25) - record.dense_nll.sel(setting="trained on").values
    ),
    "nll_same_minus_gate": lambda record: loss(record, ALLOCATIONS[1]) - loss(record, ALLOCATIONS[0]),
    "largest_miss": lambda record: (
        np.abs(record.acm_share.sel(variant=ALLOCATIONS[0]) - record.budget).max("budget").values
    ),
    "difficulty_eighth": lambda record: record.difficulty.sel(budget=0.125).values,
}
