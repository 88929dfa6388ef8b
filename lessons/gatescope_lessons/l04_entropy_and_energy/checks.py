"""Checks of lesson 04. Each knows the mistakes people make and names them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from gatescope.hopfield import energy, sphere, update
from gatescope.normalisers import NormaliserSpec, normalise, state_size

from gatescope_lessons.compare import compare
from gatescope_lessons.exercises import exercise

_N, _D = 7, 4


def _memory(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Patterns [N, d] of unlike norms, and a state [d]."""
    generator = torch.Generator().manual_seed(seed)
    patterns = sphere(_N, _D, 1.5, generator) * torch.linspace(0.6, 1.4, _N, dtype=torch.float64)[:, None]
    return patterns, torch.randn(_D, generator=generator, dtype=torch.float64)


@exercise(
    hints=(
        "Three steps: how well does every pattern fit the state, how much weight does it get, what do they add up to?",
        "patterns @ state gives one score a pattern; multiply by beta before the softmax.",
        "weights = (beta * patterns @ state).softmax(-1); return weights @ patterns",
    ),
    afterword="With the state as query and the patterns as keys and values, this line is one row of attention.",
)
def hopfield_update(answer: Callable[..., Any]) -> str | None:
    """One update of a state."""
    patterns, state = _memory()
    beta = 2.5
    scores = patterns @ state
    weights = (beta * scores).softmax(-1)
    return compare(
        answer(state, patterns, beta),
        update(state[None], patterns, beta)[0],
        axes=("channel",),
        mistakes={
            "these are the weights; add up the patterns with them": weights,
            "beta is missing: this is the update at beta = 1": scores.softmax(-1) @ patterns,
            "beta multiplies the result; it belongs inside the softmax": beta * (scores.softmax(-1) @ patterns),
            "scores are divided by beta; it is an inverse temperature": (scores / beta).softmax(-1) @ patterns,
            "without softmax this is a linear memory, where every pattern adds its score": scores @ patterns,
            "this is the one pattern of largest score: the limit of large beta": patterns[scores.argmax()],
            "the state is added; the update replaces it": state + weights @ patterns,
        },
    )


@exercise(
    hints=(
        "Differentiate by the state: the gradient of xi.xi / 2 is xi, that of the rest must be minus the update.",
        "The gradient of logsumexp(beta X xi) by xi is beta times the update: divide by beta.",
        "return state @ state / 2 - torch.logsumexp(beta * patterns @ state, -1) / beta",
    ),
    afterword="Its gradient is xi - xi': the update goes to the point where the quadratic part meets the tangent of "
    "the other, so it never climbs.",
)
def hopfield_energy(answer: Callable[..., Any]) -> str | None:
    """The energy without its constants."""
    patterns, state = _memory(1)
    beta = 1.7
    constant = math.log(_N) / beta + float(patterns.square().sum(-1).max()) / 2
    right = energy(state[None], patterns, beta)[0] - constant
    lse, half = torch.logsumexp(beta * patterns @ state, -1), state @ state / 2
    return compare(
        answer(state, patterns, beta),
        right,
        mistakes={
            "logsumexp must be divided by beta, or its gradient is beta times the update": half - lse,
            "the sign of logsumexp is wrong: scores that are high must lower the energy": half + lse / beta,
            "the quadratic part is missing: this energy has no lowest point": -lse / beta,
            "half of xi.xi, so that its gradient is xi": 2 * half - lse / beta,
            "beta is missing inside: logsumexp(beta X xi)": half - torch.logsumexp(patterns @ state, -1) / beta,
            "this is with the constants; leave them out here": right + constant,
        },
    )


_ROWS = (
    [0.02, 0.46, 0.2, 0.25, 0.04, 0.03],
    [0.125] * 8,
    [0.999, 0.001, 0.0, 0.0],
    [0.0, 0.2, 0.0, 0.2, 0.1, 0.0],
    [0.89, 0.02, 0.09],
)


@exercise(
    hints=(
        "Sort the weights, largest first, and add them up one after another.",
        "How many partial sums are still below 0.9 of the whole? One more than that is k.",
        "reached = weights.sort(descending=True).values.cumsum(-1), then count reached < 0.9 * weights.sum() and add 1",
    ),
    afterword="k = 1 is a single pattern; k near n an average over all; what lies between is a metastable state.",
)
def patterns_read(answer: Callable[..., Any]) -> str | None:
    """How many entries hold 90 % of the weight."""
    for row in _ROWS:
        weights = torch.tensor(row, dtype=torch.float64)
        right = int(state_size(weights[None])[0])
        ordered = weights.sort(descending=True).values
        whole = 0.9 * float(weights.sum()) * (1 - 1e-12)
        mistakes = {
            "the weights are added in the order they come; sort them first, largest first": int(
                (weights.cumsum(-1) < whole).sum()
            )
            + 1,
            "the smallest are added first; you want the fewest, so begin with the largest": int(
                (ordered.flip(-1).cumsum(-1) < whole).sum()
            )
            + 1,
            "this is one too few: the entry that crosses 90 % counts": right - 1,
            "this counts weights above 1 / n; the question is how many reach 90 % together": int(
                (weights > weights.mean()).sum()
            ),
            "a row need not sum to 1 (think of off-by-one): compare with 0.9 of its sum": int(
                (ordered.cumsum(-1) < 0.9 * (1 - 1e-12)).sum()
            )
            + 1,
            "this is the number of weights that are not 0": int((weights > 0).sum()),
        }
        given = answer(weights)
        wrong = compare(given, right, mistakes={said: value for said, value in mistakes.items() if value != right})
        if wrong:
            return f"for the weights {row}: {wrong}"
    return None


_SCORES = torch.tensor([1.2, 0.4, -0.5, 1.0, 0.9, -2.0], dtype=torch.float64)


@exercise(
    hints=(
        "If you knew tau, the weights would be (scores - tau).clamp(min=0). They must sum to 1.",
        "With the k largest scores in the support, tau = (their sum - 1) / k. Which k? The largest for which the k-th "
        "score still lies above its tau.",
        "z = scores.sort(descending=True).values; k = torch.arange(1, len(z) + 1); tau = (z.cumsum(-1) - 1) / k; "
        "return (scores - tau[(tau < z).sum() - 1]).clamp(min=0)",
    ),
    afterword="A point of the simplex nearest to the scores: below the threshold there is exactly nothing.",
)
def sparsemax(answer: Callable[..., Any]) -> str | None:
    """Sparsemax of one row of scores."""
    for scores in (_SCORES, 10 * _SCORES, 0.05 * _SCORES):
        ordered = scores.sort(descending=True).values
        k = torch.arange(1, len(scores) + 1, dtype=torch.float64)
        tau = (ordered.cumsum(-1) - 1) / k
        wrong = compare(
            answer(scores),
            normalise(scores[None], NormaliserSpec("sparsemax"))[0],
            axes=("key",),
            mistakes={
                "this is the softmax: nothing in it is 0": scores.softmax(-1),
                "the threshold is that of all scores; only those of the support may be in the sum": (
                    scores - tau[-1]
                ).clamp_min(0),
                "negative weights are left: cut them off with clamp(min=0)": scores - tau[(tau < ordered).sum() - 1],
                "the support is one too small: the last k with its score above tau counts": (
                    scores - tau[max(int((tau < ordered).sum()) - 2, 0)]
                ).clamp_min(0),
                "positive scores divided by their sum; the threshold is subtracted": (
                    scores.clamp_min(0) / scores.clamp_min(0).sum()
                ),
            },
        )
        if wrong:
            return f"for the scores {scores.tolist()}: {wrong}"
    return None
