"""Magnitudes as integers: without the sign, the bits of a float order as the float does."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

#: The integer of each dtype's width, and the bits of its infinity. NaNs lie above it.
BITS = {
    torch.float16: (torch.int16, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float32: (torch.int32, 0x7F80_0000),
    torch.float64: (torch.int64, 0x7FF0_0000_0000_0000),
}


def magnitude_bits(weight: Float[Tensor, "F D"]) -> Int[Tensor, "F D"]:
    """Integers that order as |w| does; every NaN is the same one, above infinity."""
    integer, infinity = BITS[weight.dtype]
    return weight.view(integer).bitwise_and(torch.iinfo(integer).max).clamp_(max=infinity + 1)
