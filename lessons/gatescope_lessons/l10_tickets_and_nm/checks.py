"""Checks of lesson 10. Each knows the mistakes people make and names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gatescope_kernels import nm_mask
from torch import Tensor

from gatescope_lessons.compare import compare
from gatescope_lessons.exercises import exercise

_DRAW = torch.Generator().manual_seed(10)
_W = torch.randn(8, 16, generator=_DRAW, dtype=torch.float64)
_INITIAL = torch.randn(8, 16, generator=_DRAW, dtype=torch.float64)
_GRADIENT = torch.randn(8, 16, generator=_DRAW, dtype=torch.float64)
#: What an earlier round left.
_BEFORE = torch.rand(8, 16, generator=_DRAW) < 0.7


def _numbers(answer: Any) -> Any:
    """Masks as numbers, so that 0 and 1 in any type will do."""
    found = answer.detach() if isinstance(answer, Tensor) else answer
    return found.double() if isinstance(found, Tensor) else found


def _largest(scores: Tensor, count: int, among: Tensor | None = None) -> Tensor:
    scores = scores if among is None else scores.masked_fill(~among, -torch.inf)
    kept = torch.zeros(scores.numel(), dtype=torch.bool)
    kept[scores.flatten().argsort(descending=True)[:count]] = True
    return kept.view_as(scores)


@exercise(
    hints=(
        "Magnitude is |w|: large negative weights matter as much as large positive ones.",
        "count = w.numel() - round(share * w.numel()) stay; find them with w.abs().flatten().topk(count).indices.",
        "mask = torch.zeros(w.numel(), dtype=torch.bool); mask[indices] = True; mask.view_as(w)",
    ),
    afterword="That is all of magnitude pruning. Whether it is any good only a control can tell.",
)
def keep_largest(answer: Callable[..., Any]) -> str | None:
    """The mask of one layer after magnitude pruning."""
    share, size = 0.75, _W.numel()
    count = size - round(share * size)
    rows = torch.stack([_largest(row, count // len(_W)) for row in _W.abs()])
    return compare(
        _numbers(answer(_W.clone(), share)),
        _largest(_W.abs(), count).double(),
        axes=("output", "input"),
        mistakes={
            "w is ranked with its sign: large negative weights go first": _largest(_W, count).double(),
            "the smallest stay": _largest(-_W.abs(), count).double(),
            "`share` of the weights stay; it is the share to cut": _largest(_W.abs(), size - count).double(),
            "every row keeps as many; rank the whole layer together": rows.double(),
        },
    )


@exercise(
    hints=(
        "Rank by the trained weights, but only those that `mask` still keeps.",
        "alive = int(mask.sum()); keep alive - round(share * alive) of them; give the others -inf before topk.",
        "Return new_mask and initial * new_mask: the ticket starts where the network started.",
    ),
    afterword="The trained values choose the places, and are then forgotten.",
)
def next_ticket(answer: Callable[..., Any]) -> str | None:
    """One round: the next mask, and the weights to train next."""
    share, alive = 0.2, int(_BEFORE.sum())
    count = alive - round(share * alive)
    right = _largest(_W.abs(), count, _BEFORE)
    found = answer(_INITIAL.clone(), _W * _BEFORE, _BEFORE.clone(), share)
    if not isinstance(found, tuple | list) or len(found) != 2:
        return "wanted two things: the next mask, and the weights to train next"
    of_all = alive - round(share * _BEFORE.numel())
    wrong = compare(
        _numbers(found[0]),
        right.double(),
        axes=("output", "input"),
        mistakes={
            "the initial weights are ranked; the trained ones know which places matter": _largest(
                _INITIAL.abs(), count, _BEFORE
            ).double(),
            "weights that an earlier round cut come back: rank only those that `mask` keeps": _largest(
                _INITIAL.abs(), count
            ).double(),
            "`share` is of the weights that are still there, not of all": _largest(_W.abs(), of_all, _BEFORE).double(),
        },
    )
    if wrong:
        return f"mask: {wrong}"
    wrong = compare(
        _numbers(found[1]),
        _INITIAL * right,
        axes=("output", "input"),
        mistakes={
            "these are the trained weights: that is fine-tuning, not a ticket": _W * right,
            "the initial weights are all there: the mask is not applied": _INITIAL,
            "the old mask is applied": _INITIAL * _BEFORE,
        },
    )
    return f"weights: {wrong}" if wrong else None


@exercise(
    hints=(
        "Groups lie along the inputs: w.view(outputs, -1, m) has one group in each last axis.",
        "w.abs().view(len(w), -1, m).topk(n, dim=-1).indices says which n of a group stay.",
        "torch.zeros_like(groups, dtype=torch.bool).scatter(-1, indices, True).view_as(w)",
    ),
    afterword="Exactly n in every group: that is what the hardware needs, and what magnitude alone would not give.",
)
def n_of_m(answer: Callable[..., Any]) -> str | None:
    """The N:M mask of a weight matrix."""
    n, m = 1, 4
    flat = torch.stack([_largest(row, n * len(row) // m) for row in _W.abs()])
    down = nm_mask(_W.T.contiguous(), n, m).T
    return compare(
        _numbers(answer(_W.clone(), n, m)),
        nm_mask(_W, n, m).double(),
        axes=("output", "input"),
        mistakes={
            "w is ranked with its sign": nm_mask(_W - _W.min() + 1, n, m).double(),
            "the n smallest of a group stay": nm_mask(1 / _W.abs(), n, m).double(),
            "every row keeps its largest wherever they are; keep n in each group of m": flat.double(),
            "groups lie along the inputs (the second axis), not along the outputs": down.double(),
            "n of a group are cut; n is how many stay": nm_mask(_W, m - n, m).double(),
        },
    )


@exercise(
    hints=(
        "Straight through: every weight gets g, as if all had been read.",
        "The decay is for weights that the mask cut: (1 - mask) * w.",
        "return g + decay * (1 - mask) * w",
    ),
    afterword="A weight that is not read shrinks, so it takes more than a twitch to come back into the mask.",
)
def srste_gradient(answer: Callable[..., Any]) -> str | None:
    """The gradient of SR-STE."""
    mask, decay = nm_mask(_W, 2, 4).double(), 0.3
    return compare(
        answer(_GRADIENT.clone(), _W.clone(), mask.clone(), decay),
        _GRADIENT + decay * (1 - mask) * _W,
        axes=("output", "input"),
        mistakes={
            "this is plain STE: the decay is missing": _GRADIENT,
            "the weights that are read decay; it should be the others": _GRADIENT + decay * mask * _W,
            "all weights decay: that is weight decay, and not what refines STE": _GRADIENT + decay * _W,
            "the gradient is masked: then a cut weight can never learn": _GRADIENT * mask + decay * (1 - mask) * _W,
            "the decay has the wrong sign: descent subtracts the gradient": _GRADIENT - decay * (1 - mask) * _W,
        },
    )
