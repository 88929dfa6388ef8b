"""Checks of lesson 16. Each knows the mistakes people make and names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from gatescope.studies.statistics import holm

from gatescope_lessons.compare import compare
from gatescope_lessons.exercises import exercise
from gatescope_lessons.l16_gate_atlas import lab

_P = np.array([0.012, 0.2, 0.001, 0.03, 0.013])


@exercise(
    hints=(
        "Below 0 the linear map says *close*. What is the smallest score each of the three can give?",
        "A sigmoid lies between 0 and 1. Halve it and add a half.",
        "return 0.5 + 0.5 * torch.sigmoid(logits)",
    ),
    afterword="It bends as a sigmoid does and never closes: what it cannot do, bending alone cannot do.",
)
def half_open(answer: Callable[..., Any]) -> str | None:
    """A score from one half to one."""
    import torch

    logits = torch.linspace(-6, 6, 25, dtype=torch.float64)
    score = torch.sigmoid(logits)
    return compare(
        answer(logits),
        0.5 + 0.5 * score,
        axes=("logit",),
        mistakes={
            "this is a plain sigmoid: it still closes": score,
            "this reaches from 0.5 to 1.5: halve the sigmoid before you add": 0.5 + score,
            "this reaches from 0 to one half: it closes, and never opens": 0.5 * score,
            "the logits are halved, not the score: that still closes": torch.sigmoid(0.5 * logits),
            "cutting a sigmoid off at one half makes a kink and kills the gradient; squeeze it instead": (
                score.clamp(min=0.5)
            ),
        },
    )


@exercise(
    hints=(
        "Take three gates at the same seeds: none, the sigmoid, and the one that cannot close.",
        "Effect of a gate: its first-token attention minus that of the model without one, seed by seed.",
        "1 - (non-sparse - none).mean() / (sigmoid - none).mean()",
    ),
    afterword="The rest is what any gate of this shape does: it bends and scales the output, and never shuts it off.",
)
def share_of_closing(answer: Any, record: xr.Dataset) -> str | None:
    """The share of a sigmoid's effect on the sink that goes when it cannot close."""
    none = lab.first(record)
    sigmoid = lab.first(record, position="sdpa")
    stiff = lab.first(record, position="sdpa", activation="non_sparse_sigmoid")
    kept = (stiff - none).mean() / (sigmoid - none).mean()
    return compare(
        answer,
        1 - kept,
        rtol=1e-3,
        mistakes={
            "this is the share that stays without closing; the question is what goes": kept,
            "these are levels, not effects: take the model without a gate off both": 1 - stiff.mean() / sigmoid.mean(),
            "the quotient is upside down: divide by the effect of the sigmoid": (
                1 - (sigmoid - none).mean() / (stiff - none).mean()
            ),
            "this is the difference of the two effects, in attention; divide by that of the sigmoid": (
                stiff.mean() - sigmoid.mean()
            ),
            "this is a mean of quotients of single seeds, of which one small number can decide everything": (
                1 - ((stiff - none) / (sigmoid - none)).mean()
            ),
        },
    )


@exercise(
    hints=(
        "Sort the p values. The smallest is multiplied by their number m, the next by m - 1, and so on.",
        "A corrected value is never below the one before it in that order, and never above 1.",
        "order = p.argsort(); np.maximum.accumulate(p[order] * np.arange(m, 0, -1)).clip(max=1), back at p's places",
    ),
    afterword="With forty comparisons at 0.05 two would come out by chance; so corrected, the chance of any is 0.05.",
)
def step_down(answer: Callable[..., Any]) -> str | None:
    """Holm's correction."""
    m, order = len(_P), _P.argsort()
    factors = np.arange(m, 0, -1)
    back = order.argsort()
    stepped = np.minimum(1, _P[order] * factors)
    return compare(
        answer(_P.copy()),
        np.array(holm(_P.tolist())),
        axes=("comparison",),
        mistakes={
            "this is Bonferroni: every p times m. Holm spares the larger ones": np.minimum(1, m * _P),
            "the values are right, but sorted: put each back at its own place": np.maximum.accumulate(stepped),
            "a corrected value has fallen below the one before it: take the running maximum": stepped[back],
            "the factors run the wrong way: the smallest p gets the largest": (
                np.maximum.accumulate(np.minimum(1, _P[order] * factors[::-1]))[back]
            ),
            "p is multiplied in the order it came in: sort first": np.minimum(1, _P * factors),
            "nothing is corrected here": _P,
        },
    )


@exercise(
    hints=(
        "Where is loss below `lab.LEARNT`? A run that diverged has NaN, and NaN is below nothing.",
        "The largest rate at which that holds, not the number of such rates.",
        "rates[loss < limit].max()",
    ),
    afterword="One number a seed: compare it pair by pair, and say which rates were tried at all.",
)
def bears(answer: Callable[..., Any]) -> str | None:
    """The largest learning rate that was learnt at."""
    rates = np.array([2e-3, 5e-3, 1e-2, 2e-2, 4e-2, 8e-2])
    loss = np.array([0.01, 0.02, 2.3, 0.4, np.nan, 3.1])
    try:
        with np.errstate(invalid="ignore"):
            got = answer(rates.copy(), loss.copy(), lab.LEARNT)
    except ValueError as error:
        return f"it raised {error}: compare first, then take the largest of what is left"
    return compare(
        got,
        2e-2,
        mistakes={
            "it stops at the first rate that fails, 1e-2; the question is the largest that learnt": 5e-3,
            "this is the largest rate of all, learnt or not": 8e-2,
            "a run that diverged (NaN) is taken for one that learnt": 4e-2,
            "this is the rate of the lowest loss; the question is the largest that learnt": float(
                rates[np.nanargmin(loss)]
            ),
            "this is how many rates were learnt at; return the largest of them": 3,
        },
    )
