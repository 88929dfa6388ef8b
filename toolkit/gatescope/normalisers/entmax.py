"""Alpha-entmax: weights that are exactly zero below a threshold. Sorted for alpha 1.5 and 2, bisected for the rest."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

#: Halvings of the threshold's interval, which is at most 1 wide: below the rounding of float64.
_HALVINGS = 60


def entmax(scores: Float[Tensor, "*B n"], alpha: float) -> Float[Tensor, "*B n"]:
    """argmax over the simplex of p.s + H_alpha(p), H_alpha the entropy of Tsallis.

        p_j = max((alpha - 1) s_j - tau, 0)^(1 / (alpha - 1)),    tau such that the row sums to 1

    alpha > 1; 2 is sparsemax. A score of -inf gets 0. The gradient by s is diag(g) - g g^T / sum(g), g = p^(2 - alpha)
    on the support.

    Source: Martins and Astudillo 2016 (sparsemax); Peters, Niculae, Martins 2019, sections 3 and 4.
    """
    return _Entmax.apply(scores, alpha)


class _Entmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, alpha: float) -> Tensor:
        weights = _weights(scores, alpha)
        ctx.save_for_backward(weights)
        ctx.alpha = alpha
        return weights

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        inner = torch.where(weights > 0, weights, 1).pow(2 - ctx.alpha) * (weights > 0)
        mean = (inner * above[0]).sum(-1, keepdim=True) / inner.sum(-1, keepdim=True)
        return inner * (above[0] - mean), None


def _weights(scores: Tensor, alpha: float) -> Tensor:
    z = (alpha - 1) * (scores - scores.amax(-1, keepdim=True))
    z = z.clamp_min(-2.0)  # tau >= -1, so what lies lower has weight 0 wherever it lies; -inf would give NaN
    if alpha == 2.0:
        tau = _sparsemax_threshold(z)
    elif alpha == 1.5:
        tau = _entmax15_threshold(z)
    else:
        tau = _bisected_threshold(z, 1 / (alpha - 1))
    weights = (z - tau).clamp_min(0).pow(1 / (alpha - 1))
    return weights / weights.sum(-1, keepdim=True)


def _ranked(z: Tensor) -> tuple[Tensor, Tensor]:
    ordered = z.sort(-1, descending=True).values
    return ordered, torch.arange(1, z.shape[-1] + 1, dtype=z.dtype, device=z.device)


def _last(taus: Tensor, ordered: Tensor) -> Tensor:
    """The threshold of the largest support whose members all lie above it."""
    size = (taus < ordered).sum(-1, keepdim=True).clamp_min(1)
    return taus.gather(-1, size - 1)


def _sparsemax_threshold(z: Tensor) -> Tensor:
    ordered, k = _ranked(z)
    return _last((ordered.cumsum(-1) - 1) / k, ordered)


def _entmax15_threshold(z: Tensor) -> Tensor:
    ordered, k = _ranked(z)
    mean, square = ordered.cumsum(-1) / k, ordered.square().cumsum(-1) / k
    # sum over the support of (z - tau)^2 = 1 is k (square - 2 tau mean + tau^2) = 1
    return _last(mean - (1 / k - (square - mean.square())).clamp_min(0).sqrt(), ordered)


def _bisected_threshold(z: Tensor, power: float) -> Tensor:
    low, high = torch.full_like(z[..., :1], -1.0), torch.zeros_like(z[..., :1])
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = (z - middle).clamp_min(0).pow(power).sum(-1, keepdim=True) >= 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return low
