"""Checks of lesson 12. Each knows the mistakes people make and names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gatescope.calibration import expected_calibration_error, overconfidence
from gatescope.layers.exits import exit_probabilities
from torch import Tensor

from gatescope_lessons.compare import compare, drawn
from gatescope_lessons.exercises import exercise

_GATES = drawn(6, 3, seed=12).sigmoid()
_CONFIDENCE = drawn(400, seed=13).sigmoid()
_CORRECT = drawn(400, seed=14).sigmoid() < _CONFIDENCE**2
#: Learners' outputs [T N D], and how many of them every token runs: none, some, all.
_OUTPUTS = drawn(5, 4, 3, seed=15)
_COUNTS = torch.tensor([0, 4, 1, 3, 4])


def _from(g: Tensor, early: Tensor) -> Tensor:
    """Probabilities of all exits from those of the first ones."""
    return torch.cat([early, 1 - early.sum(1, keepdim=True)], dim=1)


@exercise(
    hints=(
        "Before exit l the gates have claimed g.cumsum(1) - g; what is left is one minus that, and never below 0.",
        "p = torch.minimum(g, 1 - before).clamp(min=0); the last exit takes 1 - p.sum(1).",
        "torch.cat([p, 1 - p.sum(1, keepdim=True)], dim=1)",
    ),
    afterword="Once the gates before have claimed everything, a later gate may say what it likes.",
)
def exit_probabilities_of(answer: Callable[..., Any]) -> str | None:
    """The probabilities of leaving at every exit, from the gates."""
    g = _GATES
    before = g.cumsum(1) - g
    product = g * torch.cat([torch.ones(len(g), 1, dtype=g.dtype), (1 - g).cumprod(1)[:, :-1]], 1)
    right = exit_probabilities(g.logit())
    return compare(
        answer(g.clone()),
        right,
        axes=("input", "exit"),
        mistakes={
            "gates toss independent coins here: g times the product of (1 - g) before it; the paper subtracts a sum": (
                _from(g, product)
            ),
            "the last exit is missing: it takes what is left": right[:, :-1],
            "a probability is below 0: clip what is left at 0": _from(g, torch.minimum(g, 1 - before)),
            "the gates are taken as they are; together they may claim more than 1": _from(g, g),
            "the gate's own claim is subtracted too: sum over the exits before it only": _from(
                g, torch.minimum(g, 1 - g.cumsum(1)).clamp(min=0)
            ),
        },
    )


def _binned(signed: bool = False, weighted: bool = True) -> float:
    place = (_CONFIDENCE * 15).ceil().clamp(1, 15).long() - 1
    gaps, sizes = [], []
    for b in range(15):
        if (inside := place == b).any():
            gap = float(_CORRECT[inside].double().mean() - _CONFIDENCE[inside].mean())
            gaps.append(gap if signed else abs(gap))
            sizes.append(int(inside.sum()))
    if not weighted:
        return sum(gaps) / len(gaps)
    return sum(gap * size for gap, size in zip(gaps, sizes, strict=True)) / sum(sizes)


@exercise(
    hints=(
        "The bin of a prediction: (confidence * bins).ceil() - 1, at least 0.",
        "For every bin that holds something: the distance between mean(correct) and mean(confidence) there.",
        "Weigh each distance by the share of all predictions that are in its bin, and add.",
    ),
    afterword="It says nothing of accuracy: who always answers with the base rate is calibrated, and useless.",
)
def calibration_error(answer: Callable[..., Any]) -> str | None:
    """The expected calibration error."""
    gap = abs(overconfidence(_CONFIDENCE, _CORRECT))
    return compare(
        answer(_CONFIDENCE.clone(), _CORRECT.clone(), 15),
        expected_calibration_error(_CONFIDENCE, _CORRECT, 15),
        mistakes={
            "one bin for all: what is too sure here cancels what is too humble there": gap,
            "distances keep their sign and cancel: take the absolute value bin by bin": _binned(signed=True),
            "the sign is the other way round, and distances cancel": -_binned(signed=True),
            "every bin counts alike; weigh it by how many predictions it holds": _binned(weighted=False),
        },
    )


@exercise(
    hints=(
        "Token t runs learners 0, ..., counts[t] - 1.",
        "runs = torch.arange(N) < counts[:, None] is [T N]; multiply and sum over N.",
        "(outputs * (torch.arange(outputs.shape[1]) < counts[:, None])[..., None]).sum(1)",
    ),
    afterword="The authors' public code loops one learner short and loses the last one of tokens that want all.",
)
def some_learners(answer: Callable[..., Any]) -> str | None:
    """The sum of as many learners as a token runs."""
    outputs, n = _OUTPUTS, torch.arange(4)

    def summed(runs: Tensor) -> Tensor:
        return (outputs * runs[..., None]).sum(1)

    counts = _COUNTS[:, None]
    return compare(
        answer(outputs.clone(), _COUNTS.clone()),
        summed(n < counts),
        axes=("token", "channel"),
        mistakes={
            "all learners run for every token": outputs.sum(1),
            "one learner too many runs: counts[t] is a number, the last to run has number counts[t] - 1": summed(
                n <= counts
            ),
            "the last learner is lost for tokens that want all of them": summed((n < counts) & (n < 3)),
            "one learner too few runs": summed(n < counts - 1),
            "only the last learner counts; those before it are refined by it, not replaced": summed(n == counts - 1),
            "the mean is taken; learners add up": summed(n < counts) / counts.clamp(min=1),
        },
    )
