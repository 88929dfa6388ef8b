"""N:M masked linear, the equation spelled once."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def mask_of(weight: Float[Tensor, "F D"], n: int, m: int) -> Bool[Tensor, "F D"]:
    """True on the n largest magnitudes of each m contiguous inputs; of equals, on the lowest index."""
    magnitudes = weight.detach().abs().unflatten(1, (-1, m))
    order = magnitudes.sort(dim=-1, descending=True, stable=True).indices
    kept = torch.zeros_like(magnitudes, dtype=torch.bool).scatter(-1, order[..., :n], True)
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
    """x (w * mask)^T + b, in float32 or wider. Autograd differentiates all but the mask, whose rule is ``backward``."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    mask = mask_of(weight, n, m)
    y = x.to(wide) @ _MaskedWeight.apply(weight.to(wide), mask, backward, decay).mT
    if bias is not None:
        y = y + bias.to(wide)
    return y.to(x.dtype)


class _MaskedWeight(torch.autograd.Function):
    """w * mask, and the gradient that w is said to have."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, backward: str, decay: float) -> Tensor:
        ctx.save_for_backward(weight, mask)
        ctx.backward_kind, ctx.decay = backward, decay
        return weight * mask

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        weight, mask = ctx.saved_tensors
        rules = {"ste": g, "srste": g + ctx.decay * (~mask * weight), "masked": g * mask}
        return rules[ctx.backward_kind], None, None, None
