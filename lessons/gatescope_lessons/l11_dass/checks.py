"""Checks of lesson 11. Each knows the mistakes people make and names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gatescope.search import SearchSpace, derive, mixed

from gatescope_lessons.compare import compare, drawn
from gatescope_lessons.exercises import exercise

_OUTPUTS = drawn(4, 2, 3, 5, seed=111)
_ALPHA = drawn(4, seed=112)
_UPSTREAM = drawn(2, 3, 5, seed=113)
_P = _ALPHA.softmax(0)


@exercise(
    hints=(
        "alpha holds logits; the weights of a mixture are positive and sum to 1.",
        "p = alpha.softmax(0); then sum p[o] * outputs[o] over o.",
        "torch.einsum('o,o...->...', alpha.softmax(0), outputs)",
    ),
    afterword="Every candidate is computed at every step. That is why a supernet is dear, and why small spaces win.",
)
def mixture(answer: Callable[..., Any]) -> str | None:
    """The output of an edge in a supernet."""
    weights = torch.sigmoid(_ALPHA)
    return compare(
        answer(_OUTPUTS.clone(), _ALPHA.clone()),
        mixed(list(_OUTPUTS), _P),
        axes=("image", "channel", "pixel"),
        mistakes={
            "alpha is not yet a weight: take its softmax": mixed(list(_OUTPUTS), _ALPHA),
            "only the best candidate is there; until the end all of them are mixed": _OUTPUTS[int(_ALPHA.argmax())],
            "all candidates weigh the same; where is alpha?": _OUTPUTS.mean(0),
            "sigmoids do not sum to 1: candidates would not compete": mixed(list(_OUTPUTS), weights),
        },
    )


@exercise(
    hints=(
        "How much the loss changes with the weight p_o: s_o = sum of upstream * outputs[o].",
        "p depends on all alphas: dp_o / dalpha_k = p_o (1[o = k] - p_k).",
        "s = (upstream * outputs).flatten(1).sum(1); return p * (s - (p * s).sum())",
    ),
    afterword="An operation is paid for what it does better than the mixture, with the weights that are read now.",
)
def alpha_gradient(answer: Callable[..., Any]) -> str | None:
    """The gradient of the loss by alpha."""
    score = (_UPSTREAM * _OUTPUTS).flatten(1).sum(1)
    return compare(
        answer(_OUTPUTS.clone(), _ALPHA.clone(), _UPSTREAM.clone()),
        _P * (score - (_P * score).sum()),
        axes=("operation",),
        mistakes={
            "this is the gradient by the weights p; softmax stands between them and alpha": score,
            "softmax couples the candidates: subtract what the mixture gets, sum p s": _P * score,
            "the mean over candidates is subtracted, not the mixture: weigh it by p": _P * (score - score.mean()),
            "p (1 - p) is only the diagonal of softmax's derivative": _P * (1 - _P) * score,
            "the sign is turned: this is the step downhill, not the gradient": -_P * (score - (_P * score).sum()),
        },
    )


_SPACE = SearchSpace(operations=("zero", "skip", "average 3x3", "conv 3x3"), nodes=3, keep=2)
#: Rows by edge: two in which "zero" weighs most, and three edges into the last node, of which one has to go.
_WEIGHTS = np.array(
    [
        [0.70, 0.05, 0.05, 0.20],
        [0.10, 0.40, 0.30, 0.20],
        [0.50, 0.10, 0.15, 0.25],
        [0.10, 0.32, 0.30, 0.28],
        [0.05, 0.55, 0.20, 0.20],
        [0.50, 0.05, 0.05, 0.40],
    ]
)


def _derived(weights: np.ndarray) -> dict[tuple[int, int], str]:
    return derive(_SPACE, weights).by_place


def _by_sum() -> dict[tuple[int, int], str]:
    """As if edges were ranked by all that is not "zero" instead of by their best operation."""
    best = _derived(_WEIGHTS + 0.0)
    into = {place: 1 - _WEIGHTS[row, 0] for row, place in enumerate(_SPACE.edges) if place[1] == 3}
    kept = sorted(into, key=lambda place: -into[place])[:2]
    names = {
        place: _SPACE.choices[_WEIGHTS[row, 1:].argmax()] for row, place in enumerate(_SPACE.edges) if place in kept
    }
    return {place: name for place, name in best.items() if place[1] != 3} | names


@exercise(
    hints=(
        "Leave column 0 ('zero') out before you look for the best operation of an edge.",
        "Of the edges (source, node) into the same node keep the two whose best operation weighs most.",
        "For each node: sorted((weights[row, 1:].max(), source, operations[1 + weights[row, 1:].argmax()]), "
        "reverse=True)[:2]",
    ),
    afterword="All that the mixture had beyond these operations is gone, and the network is trained anew without it.",
)
def derive_cell(answer: Callable[..., Any]) -> str | None:
    """The cell that weights lead to, as {(source, node): operation}."""
    found = answer(_WEIGHTS.copy(), list(_SPACE.edges), list(_SPACE.operations), 2)
    if not isinstance(found, dict):
        return f"wanted a dictionary {{(source, node): operation}}, got a {type(found).__name__}"
    wanted = _derived(_WEIGHTS)
    if {tuple(place): name for place, name in found.items()} == wanted:
        return None
    if "zero" in found.values():
        return "'zero' is chosen: it only takes part in the mixture, and never in the cell"
    if len(found) == len(_SPACE.edges):
        return "every edge is there; a node keeps the two edges whose best operation weighs most"
    if found == _by_sum():
        return "edges are ranked by all that is not 'zero'; rank them by their best operation"
    if any(sum(to == node for _, to in found) > 2 for node in (1, 2, 3)):
        return "a node has more than two edges into it"
    if {to for _, to in found} != {1, 2, 3}:
        return "a node has no edge into it: choose among the edges of each node, not among all"
    place = next(place for place in (*wanted, *found) if wanted.get(place) != found.get(place))
    return f"edge {place}: wanted {wanted.get(place, 'no edge')}, got {found.get(place, 'no edge')}"
