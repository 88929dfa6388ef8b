"""N:M masked linear in vectorised torch, on any device: magnitudes ranked as integers, without a sort."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from gatescope_kernels.ops.nm_linear.bits import magnitude_bits

#: Groups up to this size are ranked by m (m - 1) / 2 comparisons; for larger ones a threshold is found first.
COMPARED = 8


def mask_of(weight: Float[Tensor, "F D"], n: int, m: int) -> Bool[Tensor, "F D"]:
    """True on the n largest magnitudes of each m contiguous inputs; of equals, on the lowest index. NaN is largest."""
    weight = weight.detach()
    if n == m:
        return torch.ones_like(weight, dtype=torch.bool)
    if m > COMPARED:
        return _mask_by_threshold(weight, n, m)
    planes = magnitude_bits(weight).unflatten(1, (-1, m)).unbind(-1)
    # lost[i]: how many of the group rank before i. Each starts as if it lost to all that follow it.
    lost = [torch.full_like(plane, m - 1 - i, dtype=torch.int8) for i, plane in enumerate(planes)]
    for i in range(m):
        for j in range(i + 1, m):
            wins = (planes[i] >= planes[j]).view(torch.int8)
            lost[j].add_(wins)
            lost[i].sub_(wins)
    kept = torch.empty(weight.shape, dtype=torch.bool, device=weight.device)
    for place, rank in zip(kept.unflatten(1, (-1, m)).unbind(-1), lost, strict=True):
        torch.lt(rank, n, out=place)
    return kept


def _mask_by_threshold(weight: Float[Tensor, "F D"], n: int, m: int) -> Bool[Tensor, "F D"]:
    """All that reach the n-th largest of their group; where too many do, the first of those that equal it."""
    groups = magnitude_bits(weight).unflatten(1, (-1, m))
    threshold = groups.topk(n, -1, sorted=False).values.amin(-1, keepdim=True)
    kept = groups >= threshold
    if kept.count_nonzero() > n * kept[..., 0].numel():
        larger, equal = groups > threshold, groups == threshold
        missing = n - larger.sum(-1, keepdim=True, dtype=torch.int32)
        kept = larger | (equal & (equal.cumsum(-1, dtype=torch.int32) <= missing))
    return kept.flatten(1)


def linear(
    x: Float[Tensor, "*B D"],
    weight: Float[Tensor, "F D"],
    bias: Float[Tensor, " F"] | None,
    n: int,
    m: int,
    backward: str,
    decay: float,
) -> Float[Tensor, "*B F"]:
    """x (w * mask)^T + b by one dense product. Differentiable once, in x, weight and bias."""
    return _NMLinear.apply(x, weight, bias, n, m, backward, decay)


class _NMLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, n: int, m: int, backward: str, decay: float
    ) -> Tensor:
        mask = mask_of(weight, n, m)
        # The masked weight is one product of what is saved anyway; the mask, a byte a weight, would cost a new ranking.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight, mask)
        ctx.backward_kind, ctx.decay = backward, decay
        return functional.linear(x, weight * mask, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple:
        x, weight, mask = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        rows, kept = dy.reshape(-1, dy.shape[-1]), weight * mask
        dx = dy @ kept if wants_x else None
        dweight = None
        if wants_weight:
            dweight = rows.mT @ x.reshape(-1, x.shape[-1])
            if ctx.backward_kind == "masked":
                dweight.mul_(mask)
            elif ctx.backward_kind == "srste":
                dweight.add_(torch.sub(weight, kept, out=kept), alpha=ctx.decay)
        dbias = rows.sum(0) if wants_bias else None
        return dx, dweight, dbias, None, None, None, None
