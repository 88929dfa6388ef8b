"""Checks of lesson 07. Each knows the mistakes people make and names them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gatescope_lessons.compare import compare, drawn
from gatescope_lessons.exercises import exercise

_T, _BLOCK = 12, 3


def _attention() -> Tensor:
    """Causal weights [T T] of one head."""
    hidden = torch.ones(_T, _T, dtype=torch.bool).triu(1)
    return (1.5 * drawn(_T, _T, seed=7)).masked_fill(hidden, -math.inf).softmax(-1)


def _blocks(a: Tensor, block: int) -> Tensor:
    """[rows of blocks, rows in one, columns of blocks, columns in one]"""
    return a.unflatten(0, (-1, block)).unflatten(2, (-1, block))


@exercise(
    hints=(
        "a.unflatten(0, (-1, block)).unflatten(2, (-1, block)) has the axes (a, i, b, j): row and column of blocks, "
        "and the places inside.",
        "The largest weight of every block is .amax((1, 3)) of that.",
        "Divide by the sum of its row: m / m.sum(-1, keepdim=True).",
    ),
    afterword="One strong pair makes a block worth reading, however many weak ones stand around it. That is why the "
    "maximum is taught and not the mean.",
)
def block_target(answer: Callable[..., Any]) -> str | None:
    """What a block gate is taught: row-normalised block maxima."""
    a = _attention()
    tiles = _blocks(a, _BLOCK)
    largest, mean = tiles.amax((1, 3)), tiles.mean((1, 3))
    return compare(
        answer(a.clone(), _BLOCK),
        largest / largest.sum(-1, keepdim=True),
        axes=("query block", "key block"),
        mistakes={
            "these are the maxima; divide each row by its sum": largest,
            "this is the mean of each block: a single strong pair drowns in it": mean / mean.sum(-1, keepdim=True),
            "these are the means of the blocks": mean,
            "the columns sum to 1; a row is what one block of queries has to share out": largest / largest.sum(0),
            "softmax of the maxima is nearly flat: they are weights already, divide by their sum": largest.softmax(-1),
        },
    )


_SCORES = torch.tensor([0.2, 0.9, 0.1, 0.5, 0.6, 0.3, 0.8, 0.4, 0.05, 0.0], dtype=torch.float64)


def _stays(scores: Tensor, budget: int, latest: int) -> Tensor:
    ranked = scores.clone()
    ranked[len(scores) - latest :] = math.inf
    kept = torch.zeros(len(scores), dtype=torch.bool)
    kept[ranked.topk(budget).indices] = True
    return kept


@exercise(
    hints=(
        "Give the latest keys a score that nothing beats, then take the best `budget`.",
        "scores = scores.clone(); scores[len(scores) - latest:] = torch.inf; careful: scores[-0:] is all of them.",
        "kept = torch.zeros(len(scores), dtype=torch.bool); kept[scores.topk(budget).indices] = True",
    ),
    afterword="All policies of this lesson are this function with other scores. So they can be compared at equal "
    "budgets.",
)
def stays(answer: Callable[..., Any]) -> str | None:
    """Which keys stay in a cache: the latest ones, then the best."""
    wrong = _compare_stays(answer, 5, 2)
    return wrong or (
        f"right with 2 latest keys; without any: {again}" if (again := _compare_stays(answer, 5, 0)) else None
    )


def _compare_stays(answer: Callable[..., Any], budget: int, latest: int) -> str | None:
    n = len(_SCORES)
    recent = torch.arange(n) >= n - latest
    extra = recent | _stays(torch.where(recent, -math.inf, _SCORES), budget, 0)
    return compare(
        answer(_SCORES.clone(), budget, latest),
        _stays(_SCORES, budget, latest),
        axes=("key",),
        mistakes={
            "the latest keys are not protected: they have low scores and are dropped": _stays(_SCORES, budget, 0),
            f"{budget + latest} keys stay: the latest ones count towards the budget": extra,
            "the worst stay and the best are dropped": ~_stays(_SCORES, n - budget, 0),
            "the first keys are protected in place of the latest": _stays(_SCORES.flip(0), budget, latest).flip(0),
            "this is the window: the latest keys of the whole budget": torch.arange(n) >= n - budget,
            "True where a key goes; True should mean that it stays": ~_stays(_SCORES, budget, latest),
        },
    )


@exercise(
    hints=(
        "Key j is seen by the queries j, j + 1, ..., T - 1: T - j of them.",
        "The sum over queries is a.sum(0); divide by how many there were.",
        "a.sum(0) / torch.arange(len(a), 0, -1)",
    ),
    afterword="H2O ranks by the sum, so that of two keys that are read alike the older one stays. The mean has the "
    "opposite weakness: the newest keys have been judged by few queries, themselves among them.",
)
def mean_received(answer: Callable[..., Any]) -> str | None:
    """The attention a key receives, by query that could read it."""
    a = _attention()
    seen = torch.arange(_T, 0, -1, dtype=torch.float64)
    others = (a.sum(0) - a.diagonal()) / (seen - 1).clamp_min(1)
    return compare(
        answer(a.clone()),
        a.sum(0) / seen,
        axes=("key",),
        mistakes={
            "this is the sum, H2O's score: older keys have had more queries": a.sum(0),
            "divided by T: that leaves the order as the sum has it; later keys had fewer queries": a.mean(0),
            "the count runs the wrong way: key 0 has been seen by all queries, the last one by one": a.sum(0)
            / seen.flip(0),
            "every row of weights sums to 1; the sum is over queries, down the columns": a.sum(1) / seen,
            "the query's own key is left out; it is among those that it reads": others,
        },
    )
