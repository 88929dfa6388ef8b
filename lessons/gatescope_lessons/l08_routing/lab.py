"""The experiment of lesson 08: eight ways to train eight experts, five seeds each, looked at on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import xarray as xr
from gatescope import data, records
from gatescope.checkpoints import load_weights, read_tensors, write_tensors
from gatescope.clustered import STEPS, TASK, ClusterTraining
from gatescope.layers import AuxiliaryLoss, BiasUpdate
from gatescope.models.routed import RoutedRegressor
from gatescope.paths import data_dir

from gatescope_lessons.l08_routing.training import RECIPES

SEEDS = (0, 1, 2, 3, 4)
#: The step at which the claim on an adaptive number of experts looks.
MIDWAY = 450
#: Variant -> name of its trained model (seed 0) in data/checkpoints/l08.
CHECKPOINTS = {
    "top-1": "top1",
    "top-1, loss 0.1": "loss",
    "top-1, bias": "bias",
    "dense to sparse": "dense_to_sparse",
    "EvoMoE": "evomoe",
}
MADE_BY = "gatescope run l08_routing --profile full"
#: What the live panel may balance with.
RULES = {
    "none": None,
    "auxiliary loss, 0.01": AuxiliaryLoss(0.01),
    "auxiliary loss, 0.1": AuxiliaryLoss(0.1),
    "bias, rate 0.001": BiasUpdate(1e-3),
    "bias, rate 0.1": BiasUpdate(0.1),
}


def training(variant: str, seed: int = 0, *, steps: int = STEPS, every: int = 75) -> ClusterTraining:
    """A run of one variant, not started. The same seed gives all variants the same batches."""
    return ClusterTraining(RECIPES[variant], seed, steps=steps, every=every)


def measure(
    profile: str = "full",
    *,
    variants: Sequence[str] = tuple(RECIPES),
    seeds: Sequence[int] | None = None,
    steps: int | None = None,
) -> xr.Dataset:
    """Every variant and seed trained to the end, looked at along ``step``; the load of every expert and the map of
    clusters are those of the one layer. ``quick`` takes one seed and 400 steps; only ``full`` renews the checkpoints.
    """
    quick = profile == "quick"
    seeds, steps = seeds or (SEEDS[:1] if quick else SEEDS), steps or (400 if quick else STEPS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [[_run(variant, seed, steps, keep=profile == "full") for seed in seeds] for variant in variants]
    finally:
        torch.set_num_threads(threads)
    per_variant = [records.concat(row, dim="seed", labels=list(seeds)) for row in rows]
    return records.concat(per_variant, dim="variant", labels=list(variants))


MEASURE = measure


def _run(variant: str, seed: int, steps: int, *, keep: bool) -> xr.Dataset:
    finished = training(variant, seed, steps=steps, every=75 if steps == STEPS else 100).run()
    if keep and variant in CHECKPOINTS and seed == SEEDS[0] and steps == STEPS:
        _save(variant, finished.model)
    return finished.record


def checkpoint(variant: str) -> str:
    """Name in data/ of the trained model of a variant."""
    return f"checkpoints/l08/{CHECKPOINTS[variant]}-s{SEEDS[0]}.safetensors"


def _save(variant: str, model: RoutedRegressor) -> None:
    name = checkpoint(variant)
    write_tensors(data_dir() / name, model.state_dict(), {"variant": variant, "seed": SEEDS[0]})
    what = f"Eight experts on clusters, lesson 08, variant {variant!r}"
    data.register(name, licence="Apache-2.0", made_by=MADE_BY, description=what)


def load(variant: str) -> RoutedRegressor:
    """A trained model from data/, its digest checked. Raises DataError when the file is missing or changed."""
    path = data.path(checkpoint(variant))
    model = RoutedRegressor(RECIPES[variant].spec(), TASK.dim)
    load_weights(model, read_tensors(path)[0], path)
    return model.eval()


def published() -> xr.Dataset:
    """The record in data/ that the claims are judged by. Raises DataError when it is missing or changed."""
    return records.load(data.path("measured/l08_routing.nc"))


def _last(record: xr.Dataset, name: str, variant: str) -> np.ndarray:
    own = record[name].sel(variant=variant).isel(step=-1)
    return own.isel(layer=0).values if "layer" in own.dims else own.values


def log_ratio(record: xr.Dataset, name: str, above: str, below: str) -> np.ndarray:
    """log of a number at the last step of one variant over that of another, seed by seed."""
    return np.log(_last(record, name, above) / _last(record, name, below))


def visited_last_over_first(record: xr.Dataset) -> np.ndarray:
    """Experts a token visits at the last step over those at the first, for the gate that becomes sparse."""
    own = record.experts_visited.sel(variant="dense to sparse").isel(layer=0)
    return (own.isel(step=-1) / own.isel(step=0)).values


def spread_midway(record: xr.Dataset) -> np.ndarray:
    """Spread over tokens of the experts visited, part of the way to sparse."""
    return record.experts_spread.sel(variant="dense to sparse", step=MIDWAY).values


_error = partial(log_ratio, name="error")
_violation = partial(log_ratio, name="load_violation")
#: Name in claims/*.toml -> one effect a seed.
METRICS: dict[str, Callable[[xr.Dataset], np.ndarray]] = {
    "log_violation_loss_over_none": partial(_violation, above="top-1, loss 0.01", below="top-1"),
    "log_error_loss_over_none": partial(_error, above="top-1, loss 0.01", below="top-1"),
    "log_violation_bias_over_loss": partial(_violation, above="top-1, bias", below="top-1, loss 0.01"),
    "log_error_bias_over_loss": partial(_error, above="top-1, bias", below="top-1, loss 0.01"),
    "log_error_bias_over_strong_loss": partial(_error, above="top-1, bias", below="top-1, loss 0.1"),
    "log_error_gate_over_top1": partial(_error, above="dense to sparse", below="top-1"),
    "visited_last_over_first": visited_last_over_first,
    "spread_midway": spread_midway,
    "log_error_evomoe_over_gate": partial(_error, above="EvoMoE", below="dense to sparse"),
    "log_error_masks_over_copies": partial(_error, above="EvoMoE", below="EvoMoE, no masks"),
    "log_error_evomoe_over_switch": partial(_error, above="EvoMoE", below="top-1, loss 0.01"),
}
