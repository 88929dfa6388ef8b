"""The experiment of lesson 05: accuracy of recall from shipped checkpoints, learning curves, three forms and costs.

Checkpoints come from ``python -m gatescope_lessons.l05_the_gate_as_a_clock.make``; the record comes from them, so
anyone can measure it again in a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from gatescope import data, records
from gatescope.rates import rate
from gatescope.records import Quantity
from gatescope.tasks import MQAR

from gatescope_lessons.l05_the_gate_as_a_clock.forms import FORMS, costs, disagreement
from gatescope_lessons.l05_the_gate_as_a_clock.runs import SEEDS, TASKS, TRAINED, VARIANTS, Run, accuracy, curve, load

LENGTHS = (256, 512, 1024, 2048, 4096)
#: Numbers of pairs that models of 16 pairs are asked with.
PAIRS = (2, 4, 8, 12, 16, 24, 32)
_ZOOLOGY = "Arora et al. 2023 (arXiv 2312.04927)"
_GUESSING = "guessing one of the values: 1/64"


def _accuracy(name: str, long_name: str, *dims: str) -> Quantity:
    return Quantity(name, ("variant", "seed", *dims), "1", long_name, "mean(argmax = answer)", _ZOOLOGY, _GUESSING)


_FINAL = _accuracy("accuracy", "accuracy of recall", "setting")
_CURVE = _accuracy("accuracy_curve", "accuracy of recall while learning", "setting", "step")
_BY_PAIRS = _accuracy("accuracy_pairs", "accuracy of recall after training on 16 pairs", "pairs")
_DISAGREEMENT = Quantity(
    "disagreement",
    ("seed",),
    "1",
    "largest difference between forms",
    "max |o - o'| / max |o|, float32",
    "measured",
    "exact arithmetic: 0",
)


def _cost(name: str, units: str, long_name: str, formula: str) -> Quantity:
    return Quantity(name, ("form", "length"), units, long_name, formula, "forms.Costs", "none")


_COSTS = (
    _cost("operations", "1", "operations", "2 m n k a matrix product; one a number of any other result"),
    _cost("calls", "1", "calls one after another", "torch functions called"),
    _cost("largest", "1", "numbers in the largest tensor", "max numel"),
)


def of_pairs(pairs: int) -> MQAR:
    """A sequence with no room to spare: every pair told, then every key asked."""
    return MQAR(pairs=pairs, length=4 * pairs)


def recall(seeds: Sequence[int], size: int) -> dict[str, xr.DataArray]:
    """Final accuracies and learning curves of every run, NaN where a variant was not trained on a task, and accuracies
    of the models of 16 pairs with other numbers of pairs."""
    coords: dict[str, list[Any]] = {
        "variant": list(VARIANTS),
        "seed": list(seeds),
        "setting": list(TASKS),
        "pairs": list(PAIRS),
    }
    steps, _ = curve(Run("softmax", "16 pairs", seeds[0]))
    final = np.full([len(coords[dim]) for dim in ("variant", "seed", "setting")], np.nan)
    curves = np.full([*final.shape, len(steps)], np.nan)
    by_pairs = np.full([*final.shape[:2], len(PAIRS)], np.nan)
    for t, task in enumerate(TASKS):
        for variant in TRAINED[task]:
            for s, seed in enumerate(seeds):
                run, v = Run(variant, task, seed), coords["variant"].index(variant)
                model = load(run)
                final[v, s, t] = accuracy(model, TASKS[task], size)
                curves[v, s, t] = curve(run)[1]
                if task == "16 pairs":
                    by_pairs[v, s] = [accuracy(model, of_pairs(pairs), size // 4) for pairs in PAIRS]
    guess = 1 / (MQAR().vocab // 2)
    return {
        "accuracy": _FINAL.variable(final, coords, baseline_value=guess),
        "accuracy_curve": _CURVE.variable(curves, {**coords, "step": steps}, baseline_value=guess),
        "accuracy_pairs": _BY_PAIRS.variable(by_pairs, coords, baseline_value=guess),
    }


def forms(seeds: Sequence[int], lengths: Sequence[int]) -> dict[str, xr.DataArray]:
    """How far the three forms are apart, and what each costs."""
    counted = {(form, length): costs(form, length) for form in FORMS for length in lengths}
    coords = {"form": list(FORMS), "length": list(lengths)}
    found = {
        quantity.name: quantity.variable(
            [[getattr(counted[form, length], quantity.name) for length in lengths] for form in FORMS], coords
        )
        for quantity in _COSTS
    }
    apart = [disagreement(1024, seed) for seed in seeds]
    return {**found, "disagreement": _DISAGREEMENT.variable(apart, {"seed": list(seeds)})}


def measure(profile: str = "full", *, seeds: Sequence[int] | None = None) -> xr.Dataset:
    """All runs from their checkpoints, and the forms. ``quick`` takes one seed, few sequences and short lengths."""
    quick = profile == "quick"
    seeds = seeds or (SEEDS[:1] if quick else SEEDS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        variables = recall(seeds, 64 if quick else 512) | forms(seeds, LENGTHS[:2] if quick else LENGTHS)
    finally:
        torch.set_num_threads(threads)
    return records.new(variables)


MEASURE = measure


def published() -> xr.Dataset:
    """The record in data/ that the claims are judged by. Raises DataError when it is missing or changed."""
    return records.load(data.path("measured/l05_the_gate_as_a_clock.nc"))


def final(record: xr.Dataset, variant: str, task: str = "16 pairs") -> np.ndarray:
    """Accuracy of a variant on the task it was trained on, one value a seed."""
    return record.accuracy.sel(variant=variant, setting=task).values


def exponent(record: xr.Dataset, form: str, variable: str = "operations") -> float:
    """The exponent of T of a cost."""
    own = record[variable].sel(form=form)
    return rate(own.length.values, own.values)


def _difference(record: xr.Dataset, above: str, below: str, task: str = "16 pairs") -> np.ndarray:
    return final(record, above, task) - final(record, below, task)


#: Name in claims/*.toml -> one effect a seed.
METRICS: dict[str, Callable[[xr.Dataset], np.ndarray]] = {
    "log10_disagreement": lambda record: np.log10(record.disagreement.values),
    "chunk_exponent": lambda record: np.full(record.sizes["seed"], exponent(record, "chunk")),
    "gla_minus_fixed_segments": partial(_difference, above="gla", below="fixed", task="3 segments"),
    "gla_minus_fixed_recall": partial(_difference, above="gla", below="fixed"),
    "softmax_minus_gla": partial(_difference, above="softmax", below="gla"),
    "gap_16_minus_gap_4": lambda record: (
        _difference(record, "softmax", "gla") - _difference(record, "softmax", "gla", "4 pairs")
    ),
    "gla_k32_minus_gla": partial(_difference, above="gla_k32", below="gla"),
    "hybrid_minus_gla": partial(_difference, above="hybrid", below="gla"),
    "delta_minus_scalar": partial(_difference, above="delta", below="scalar"),
}
