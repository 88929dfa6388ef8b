"""The gate, where an implementation does not fuse it into its own last step."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def gated(
    y: Float[Tensor, "B H T V"], gate: Float[Tensor, "B H T W"] | None, combine: str, dtype: torch.dtype
) -> Float[Tensor, "B H T V"]:
    """gate * y, or gate + y with combine="add", in ``dtype``, to which y is rounded first."""
    y = y.to(dtype)
    if gate is None:
        return y
    return y * gate if combine == "multiply" else y + gate
