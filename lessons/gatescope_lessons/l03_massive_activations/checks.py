"""Checks of lesson 03. Each knows the mistakes people make and names them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from gatescope.emergence import turning_point as turns
from scipy.special import lambertw

from gatescope_lessons.compare import compare, drawn
from gatescope_lessons.exercises import exercise
from gatescope_lessons.l03_massive_activations.runs import ARCHITECTURES, ARMS


def _hidden() -> tuple[Any, Any]:
    """Two hidden states [T D], a quiet and a loud one, in which every wrong rule counts something else."""
    quiet, loud = (0.02 * drawn(20, 50, seed=3), 0.3 * drawn(20, 50, seed=4) + 0.1)
    quiet[0, 7], quiet[0, 9], quiet[3, 7], quiet[6, 1], quiet[6, 2] = 900.0, -700.0, 350.0, 60.0, 70.0
    loud[0, 7], loud[0, 9], loud[1, 1], loud[2, 2] = 900.0, -700.0, 120.0, 101.0
    loud[3, 3], loud[4] = 180.0, loud[4] * 10
    loud[4, 5], loud[4, 6], loud[4, 8] = 400.0, 500.0, 600.0
    return quiet, loud


@exercise(
    hints=(
        "Two conditions, both on |h|: above 100, and at least 1,000 times the median.",
        "The median is that of |h| over all tokens and dimensions: h.abs().median().",
        "a = h.abs(); return ((a > 100) & (a >= 1000 * a.median())).sum()",
    ),
    afterword="Sun et al. say 'about 1,000 times': it is a rule of thumb, and a number to be named with every count.",
)
def massive_count(answer: Callable[..., Any]) -> str | None:
    """How many values of a hidden state are massive."""
    for h in _hidden():
        a = h.abs()
        found = answer(h.clone())
        wrong = compare(
            float(found) if isinstance(found, int) or getattr(found, "ndim", 1) == 0 else found,
            _count(a, a.median()),
            mistakes={
                "large negative values count too: take |h| first": _count(h, a.median()),
                "only the magnitude is asked; the ratio to the median counts as well": _count(a, a.median(), times=0.0),
                "only the ratio is asked; the magnitude counts as well": _count(a, a.median(), floor=0.0),
                "the median is that of h; take it of |h|": _count(a, h.median().abs()),
                "the median is taken token by token; it is one for the whole [T, D]": _count(
                    a, a.median(dim=1, keepdim=True).values
                ),
            },
        )
        if wrong:
            return wrong
    return None


def _count(large: Any, median: Any, floor: float = 100.0, times: float = 1000.0) -> float:
    return float(((large > floor) & (large >= times * median)).sum())


@exercise(
    hints=(
        "Set the derivative to zero: 1 / x = lambda log x, with x = gamma t + t0.",
        "y e^y = 1 / lambda for y = log x, so y = W(1 / lambda), Lambert's function, and x = exp(y).",
        "return (np.exp(lambertw(1 / lam).real) - t0) / gamma",
    ),
    afterword="For every decay above 0 there is one turning point; whether training lasts that long is another matter.",
)
def turning_point(answer: Callable[..., Any]) -> str | None:
    """The step at which the law turns."""
    for lam, gamma, t0 in ((0.05, 0.03, 0.7), (2.0, 0.01, 0.2), (5.0, 0.1, 2.0)):
        x = math.exp(float(lambertw(1 / lam).real))
        wrong = compare(
            answer(lam, gamma, t0),
            turns(decay=lam, rate=gamma, offset=t0),
            mistakes={
                "this is x where the law turns; solve x = gamma t + t0 for t": x,
                "t0 is missing": x / gamma,
                "t0 is added; it is subtracted": (x + t0) / gamma,
                "multiplied by gamma; divide": (x - t0) * gamma,
                "W is taken of lambda; the equation says 1 / lambda": (math.exp(float(lambertw(lam).real)) - t0)
                / gamma,
                "this is y = log x at the turning point; take exp": (math.log(x) - t0) / gamma,
            },
        )
        if wrong:
            return f"for lambda = {lam}, gamma = {gamma}, t0 = {t0}: {wrong}"
    return None


@exercise(
    hints=(
        "The mean of the squared residuals comes under the logarithm, times n.",
        "Two for every parameter, whatever n is.",
        "return len(r) * np.log(np.mean(r ** 2)) + 2 * p",
    ),
    afterword="Only differences mean something, and only between laws fitted to the same points.",
)
def akaike(answer: Callable[..., Any]) -> str | None:
    """Akaike's criterion of a fit."""
    r, p = drawn(30, seed=5).numpy() * 0.3, 5
    n, mean = len(r), float(np.mean(r**2))
    return compare(
        answer(r.copy(), p),
        n * math.log(mean) + 2 * p,
        mistakes={
            "the parameters are free of charge here: add 2 p": n * math.log(mean),
            "the sign of the price is turned: parameters must cost": n * math.log(mean) - 2 * p,
            "this is BIC: its price is log n a parameter": n * math.log(mean) + p * math.log(n),
            "n is missing before the logarithm": math.log(mean) + 2 * p,
            "the squares are summed; take their mean": n * math.log(n * mean) + 2 * p,
            "the root is taken: this is n log RMSE": n * math.log(math.sqrt(mean)) + 2 * p,
        },
    )


@exercise(
    hints=(
        "One split for every different name: test is where names == name.",
        "Train is everything else, and nothing else.",
        "return [(np.flatnonzero(names != name), np.flatnonzero(names == name)) for name in np.unique(names)]",
    ),
    afterword="Now nothing that is fitted comes from the model that is judged.",
)
def architecture_splits(answer: Callable[..., Any]) -> str | None:
    """Train and test rows that never share an architecture."""
    names = np.array([arm for arm in ARCHITECTURES for _ in range(ARMS[arm].n_layers)])
    names = names[np.random.default_rng(0).permutation(len(names))]
    splits = answer(names.copy())
    if not isinstance(splits, list | tuple) or not all(isinstance(s, list | tuple) and len(s) == 2 for s in splits):
        return "wanted a list of pairs (train, test) of row numbers"
    tested: list[int] = []
    for train, test in (tuple(np.asarray(part, dtype=int).tolist() for part in split) for split in splits):
        if set(train) & set(test):
            return "rows are on both sides of a split: the fit sees what it is judged by"
        if shared := set(names[train]) & set(names[test]):
            return f"layers of {sorted(shared)[0]!r} are on both sides: hold out whole architectures"
        if len(train) + len(test) != len(names):
            return "a split leaves rows out: train on all that is not tested"
        tested += test
    if sorted(tested) != list(range(len(names))):
        return "every row is tested once: one split for every architecture"
    return None
