"""The experiment of lesson 06: scores of converted models before and after repair, their curves, costs of decoding.

Checkpoints come from ``python -m gatescope_lessons.l06_liger.make``; the record comes from them, so anyone can measure
it again in a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import xarray as xr
from gatescope import data, records
from gatescope.rates import rate
from gatescope.records import Quantity

from gatescope_lessons.l06_liger.costs import FORMS, carried, layer_of, seconds, state_after
from gatescope_lessons.l06_liger.runs import SEEDS, VARIANTS, Run, converted, curve, repaired, score, teacher

LENGTHS = (256, 1024, 4096, 16384, 65536)
#: The trained model first, then what was made of it.
NAMES = ("softmax", *VARIANTS)
_LAN = "Lan et al. 2025 (arXiv 2503.01496)"
_SCORES = {
    "recall": ("accuracy", "1", "accuracy of recall", "mean(argmax = answer)", "guessing one of the values: 1/64"),
    "bytes": ("loss", "nats", "loss a byte", "mean next-byte NLL of four short texts", "uniform: ln 257"),
}
_GUESS = {"recall": 1 / 64, "bytes": float(np.log(257))}


def _scored(task: str, suffix: str, what: str, *dims: str) -> Quantity:
    name, units, long_name, formula, baseline = _SCORES[task]
    return Quantity(f"{name}{suffix}", ("variant", "seed", *dims), units, f"{long_name}{what}", formula, _LAN, baseline)


_AFTER = {task: _scored(task, "", ", repaired") for task in _SCORES}
_BEFORE = {task: _scored(task, "_before", ", converted and not yet repaired") for task in _SCORES}
_CURVE = {task: _scored(task, "_curve", " while adapters learn", "step") for task in _SCORES}
_ADDED = Quantity(
    "parameters_added", ("seed",), "1", "parameters that a conversion adds", "count after - count before", _LAN, "none"
)


def _cost(name: str, units: str, long_name: str, formula: str) -> Quantity:
    return Quantity(name, ("form", "length"), units, long_name, formula, "costs.FORMS", "none")


_CARRIED = _cost("carried", "1", "numbers carried from token to token", "numel of the state, one layer of 8 x 64")
_SECONDS = _cost("step_time", "s", "time of one more token", "median of 9 steps, one thread")


def scores(task: str, seeds: Sequence[int], size: int) -> dict[str, xr.DataArray]:
    """A task's scores of every run, after and before repair and along it. The trained model stands in all three."""
    steps, _ = curve(Run(task, "liger", seeds[0]))
    after = np.full((len(NAMES), len(seeds)), np.nan)
    before, curves = after.copy(), np.full((*after.shape, len(steps)), np.nan)
    for s, seed in enumerate(seeds):
        model = teacher(task, seed)
        after[0, s] = before[0, s] = curves[0, s] = score(model, task, size)
        for v, variant in enumerate(VARIANTS, 1):
            run = Run(task, variant, seed)
            after[v, s] = score(repaired(run, model), task, size)
            before[v, s] = score(converted(model, task, variant), task, size)
            curves[v, s] = curve(run)[1]
    coords = {"variant": list(NAMES), "seed": list(seeds), "step": steps}
    found = ((_AFTER[task], after), (_BEFORE[task], before), (_CURVE[task], curves))
    return {quantity.name: quantity.variable(values, coords, baseline_value=_GUESS[task]) for quantity, values in found}


def added(seeds: Sequence[int]) -> dict[str, xr.DataArray]:
    """Parameters of the converted model less those of the trained one."""
    counts = []
    for seed in seeds:
        model = teacher("recall", seed)
        own, other = (sum(p.numel() for p in m.parameters()) for m in (model, converted(model, "recall", "liger")))
        counts.append(float(other - own))
    return {"parameters_added": _ADDED.variable(counts, {"seed": list(seeds)})}


def decoding(lengths: Sequence[int]) -> dict[str, xr.DataArray]:
    """What one more token costs after ``lengths`` tokens, in every form."""
    coords = {"form": list(FORMS), "length": list(lengths)}
    held = [[float(carried(state_after(layer_of(form), length))) for length in lengths] for form in FORMS]
    spent = [[seconds(form, length) for length in lengths] for form in FORMS]
    return {"carried": _CARRIED.variable(held, coords), "step_time": _SECONDS.variable(spent, coords)}


def measure(profile: str = "full", *, seeds: Sequence[int] | None = None) -> xr.Dataset:
    """All runs from their checkpoints, and the costs. ``quick`` takes one seed, few sequences and short lengths."""
    quick = profile == "quick"
    seeds, size = seeds or (SEEDS[:1] if quick else SEEDS), 64 if quick else 512
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = scores("recall", seeds, size) | scores("bytes", seeds, size) | added(seeds)
        found |= decoding(LENGTHS[:3] if quick else LENGTHS)
    finally:
        torch.set_num_threads(threads)
    return records.new(found)


MEASURE = measure


def published() -> xr.Dataset:
    """The record in data/ that the claims are judged by. Raises DataError when it is missing or changed."""
    return records.load(data.path("measured/l06_liger.nc"))


def recovered(record: xr.Dataset, variable: str, variant: str = "liger") -> np.ndarray:
    """Share of what the conversion cost that the repair brought back, one value a seed."""
    before, after = (record[name].sel(variant=variant).values for name in (f"{variable}_before", variable))
    return (after - before) / (record[variable].sel(variant="softmax").values - before)


def exponent(record: xr.Dataset, form: str) -> float:
    """The exponent of T in the numbers carried."""
    own = record.carried.sel(form=form)
    return round(rate(own.length.values, own.values), 6) + 0.0  # what rounding leaves of 0 has no sign to speak of


def gain(record: xr.Dataset, variable: str, over: str) -> np.ndarray:
    """How much better Liger is than another variant after repair, one value a seed; a lower loss is better."""
    sign = -1.0 if variable == "loss" else 1.0
    own = record[variable]
    return sign * (own.sel(variant="liger") - own.sel(variant=over)).values


#: Name in claims/*.toml -> one effect a seed.
METRICS: dict[str, Callable[[xr.Dataset], np.ndarray]] = {
    "parameters_added": lambda record: record.parameters_added.values,
    "loss_recovered": partial(recovered, variable="loss"),
    "recall_recovered": partial(recovered, variable="accuracy"),
    "loss_gain_of_window": partial(gain, variable="loss", over="recurrent"),
    "recall_gain_of_window": partial(gain, variable="accuracy", over="recurrent"),
    "loss_gain_of_recurrence": partial(gain, variable="loss", over="window"),
    "recall_gain_of_recurrence": partial(gain, variable="accuracy", over="window"),
    "loss_gain_of_gate": partial(gain, variable="loss", over="ungated"),
    "recall_gain_of_gate": partial(gain, variable="accuracy", over="ungated"),
    "carried_exponent": lambda record: np.full(record.sizes["seed"], exponent(record, "liger")),
}
