"""PolyNorm and PolyReLU, the equations spelled once. Every power is materialised: for tests and small inputs."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gatescope_kernels.ops._common import accumulation_dtype


def polynorm(
    x: Float[Tensor, "*rows D"], weight: Float[Tensor, " 3"], bias: Float[Tensor, " 1"] | None, eps: float
) -> Float[Tensor, "*rows D"]:
    """y = w_0 N(x^3) + w_1 N(x^2) + w_2 N(x) + b with N(u) = u / sqrt(mean(u^2) + eps). Autograd differentiates it."""
    u = x.to(accumulation_dtype(x))
    cube, square, linear = weight.to(u.dtype)
    y = cube * _normalised(u**3, eps) + square * _normalised(u**2, eps) + linear * _normalised(u, eps)
    return (y if bias is None else y + bias.to(u.dtype)).to(x.dtype)


def polyrelu(x: Float[Tensor, "*rows D"], weight: Float[Tensor, " 4"]) -> Float[Tensor, "*rows D"]:
    """y = sum_i a_i relu(x)^i. Autograd differentiates it."""
    r = torch.relu(x.to(accumulation_dtype(x)))
    return sum(a * r**i for i, a in enumerate(weight.to(r.dtype))).to(x.dtype)


def _normalised(u: Tensor, eps: float) -> Tensor:
    return u / torch.sqrt(u.square().mean(-1, keepdim=True) + eps)
