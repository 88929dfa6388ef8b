"""Checks of lesson 09. Each knows the mistakes people make and names them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from gatescope.mixtures import RouterSpec

from gatescope_lessons.compare import compare
from gatescope_lessons.exercises import exercise
from gatescope_lessons.l09_what_a_router_can_know import lab

_W = torch.tensor([1.5, 0.6, 0.0, -0.7], dtype=torch.float64)
_B = torch.tensor([-1.2, 0.4, 0.0, 1.1], dtype=torch.float64)
_X = torch.linspace(-2, 2, 6, dtype=torch.float64)


def _softmax_over(logits: torch.Tensor, rank: torch.Tensor, k: int) -> torch.Tensor:
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, rank.topk(k, dim=-1).indices, True)
    return logits.masked_fill(~kept, -torch.inf).softmax(-1)


@exercise(
    hints=(
        "Rank z = w x first; the bias comes in afterwards, for those who stay.",
        "kept = z.topk(k, dim=-1).indices; everyone else gets a logit of minus infinity before the softmax.",
        "cut = torch.full_like(z, -torch.inf).scatter(-1, kept, (z + b).gather(-1, kept)); cut.softmax(-1)",
    ),
    afterword="With one input, w x is ranked by w alone: for x > 0 the largest w stay on, for x < 0 the smallest.",
)
def top_k_gate(answer: Callable[..., Any]) -> str | None:
    """Weights of the Top-K sparse softmax gate."""
    z, k = _X[:, None] * _W, 2
    own = RouterSpec(k=k).log_weights(z[None], _B[None], torch.zeros(1, dtype=torch.float64))[0].exp()
    dense = (z + _B).softmax(-1)
    return compare(
        answer(_X, _W, _B, k),
        own,
        axes=("sample", "expert"),
        mistakes={
            "nobody is cut: this is the dense softmax": dense,
            "the bias has a say in who stays; this gate ranks w x alone": _softmax_over(z + _B, z + _B, k),
            "the weights of those who stay do not sum to 1: cut before the softmax, or divide again": dense * (own > 0),
            "the bias is missing from the weights": _softmax_over(z, z, k),
            "those with the smallest w x stay; the gate keeps the largest": _softmax_over(z + _B, -z, k),
        },
    )


_REGIONS = ((0, 1), (1, 2))
_CELLS = ([0, 0, 0, 0, 1, 2, 2], [0, 0, 1, 2], [0, 1, 1, 2], [0, 0, 1, 1, 2, 2], [0, 1, 2, 2, 2])


@exercise(
    hints=(
        "How many fitted experts does each true one have? That is the size of its cell.",
        "In a region where true experts 0 and 1 are on, the fitted experts of both cells must be able to be on.",
        "max(sum(cells.count(j) for j in region) for region in regions)",
    ),
    afterword="The paper's condition: K must reach the largest such sum, over all regions.",
)
def smallest_k(answer: Callable[..., Any]) -> str | None:
    """How large K must be by the paper's condition."""
    for cells in _CELLS:
        size = [cells.count(expert) for expert in range(3)]
        right = max(sum(size[j] for j in region) for region in _REGIONS)
        mistakes = {
            "this is the number of experts that are on in the truth; the spare ones need room too": 2,
            "this is the number of fitted experts: always enough, and more than the condition asks": len(cells),
            "this is the largest cell; two cells are on in every region": max(size),
            "this is the smallest sum; K must serve the region that needs most": min(
                sum(size[j] for j in region) for region in _REGIONS
            ),
        }
        given = answer(list(cells), _REGIONS)
        wrong = compare(given, right, mistakes={said: value for said, value in mistakes.items() if value != right})
        if wrong:
            return f"for cells {cells}: {wrong}"
    return None


@exercise(
    hints=(
        "A power of n is a straight line in log error over log n; its slope is the exponent.",
        "np.polyfit(np.log(n), np.log(error), 1)[0] for the errors of one seed.",
        "np.array([np.polyfit(np.log(record.sample_size), np.log(row), 1)[0] for row in errors.values])",
    ),
    afterword="Halving such an error takes 2^(-1 / exponent) times the data.",
)
def exponents(answer: Any, record: xr.Dataset) -> str | None:
    """The exponent of the slope's error in the shared cell, one a seed."""
    name = {"variable": "error_shared", "variant": "dense over", "parameter": "slope"}
    right = lab.rates(record, **name)
    own = record.error_shared.sel(variant="dense over", parameter="slope", setting=lab.STAGES[1])
    n, values = own.sample_size.values, own.transpose("seed", "sample_size").values
    half_log = np.array([np.polyfit(n, np.log(row), 1)[0] for row in values])
    return compare(
        answer,
        right,
        axes=("seed",),
        mistakes={
            "the sign is lost: an error that falls has a negative exponent": -right,
            "the seeds are averaged; keep one exponent a seed, they are your evidence": right.mean(),
            "n is not in logarithms: this is an exponential law, not a power": half_log,
            "this is the exponent of n over the error, turned round": 1 / right,
            "these are the experts alone in their cell; the exercise asks for `error_shared`": lab.rates(
                record, **name | {"variable": "error_alone"}
            ),
            "this is where EM stopped; select the setting after L-BFGS": lab.rates(record, **name, stage=lab.STAGES[0]),
        },
    )


@exercise(
    hints=(
        "The gate sees (w x + b) / tau. What can be multiplied into all three and cancel?",
        "If tau becomes c tau, then w and b must become c w and c b.",
        "return 2 * w, 2 * b, 2 * tau",
    ),
    afterword="No sample, however large, tells these two gates apart. Behind tanh the same step changes the gate.",
)
def same_gate(answer: Callable[..., Any]) -> str | None:
    """Another (w, b, tau) with twice the temperature and the same linear gate."""
    tau = 0.5
    found: Sequence[Any] = answer(_W, _B, tau)
    if not isinstance(found, tuple | list) or len(found) != 3:
        return "wanted three things: w, b and tau"
    w, b, hot = (torch.as_tensor(part, dtype=torch.float64) for part in found)
    if hot.numel() != 1 or abs(float(hot) - 2 * tau) > 1e-9:
        return f"the temperature must be twice the {tau} given, got {hot.tolist()}"

    def gate(w: torch.Tensor, b: torch.Tensor, tau: float) -> torch.Tensor:
        return ((_X[:, None] * w + b) / tau).softmax(-1)

    if w.shape != _W.shape or b.shape != _B.shape:
        return f"w and b keep their shape {tuple(_W.shape)}, got {tuple(w.shape)} and {tuple(b.shape)}"
    return compare(
        gate(w, b, float(hot)),
        gate(_W, _B, tau),
        axes=("sample", "expert"),
        mistakes={
            "w and b are as before: the gate is now softer": gate(_W, _B, 2 * tau),
            "w grew with tau, b did not": gate(2 * _W, _B, 2 * tau),
            "b grew with tau, w did not": gate(_W, 2 * _B, 2 * tau),
            "w and b were halved; to make up for a larger tau they must grow": gate(_W / 2, _B / 2, 2 * tau),
        },
    )
