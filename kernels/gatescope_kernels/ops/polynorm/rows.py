"""PolyNorm of one block of rows, forward and backward, in the accumulation dtype.

Coefficients are [R 3] in the order x, x^2, x^3. With r_k the inverse norms, y = b + sum_k w_k r_k x^k is one cubic a
row, so no normalised power is ever stored. README.md derives the gradient.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def inverse_norms(
    x: Float[Tensor, "R D"], eps: float | Float[Tensor, "R 3"], work: Float[Tensor, "R D"]
) -> Float[Tensor, "R 3"]:
    """r_k = 1 / sqrt(mean(x^2k) + eps) for k = 1, 2, 3. Destroys ``work``."""
    norms = x.new_empty(x.shape[0], 3)
    torch.linalg.vector_norm(x, dim=-1, out=norms[:, 0])
    torch.linalg.vector_norm(torch.mul(x, x, out=work), dim=-1, out=norms[:, 1])
    torch.linalg.vector_norm(work.mul_(x), dim=-1, out=norms[:, 2])
    return norms.square_().div_(x.shape[1]).add_(eps).rsqrt_()


def forward(
    x: Float[Tensor, "R D"],
    weight: Float[Tensor, " 3"],
    bias: Float[Tensor, " 1"] | None,
    inverse: Float[Tensor, "R 3"],
    y: Float[Tensor, "R D"],
) -> None:
    """Write y = b + sum_k w_k r_k x^k."""
    c1, c2, c3 = _columns(weight * inverse)
    torch.mul(x, c3, out=y)
    y.add_(c2).mul_(x).add_(c1).mul_(x)
    if bias is not None:
        y.add_(bias)


def row_sums(
    x: Float[Tensor, "R D"], g: Float[Tensor, "R D"], inverse: Float[Tensor, "R 3"], work: Float[Tensor, "R D"]
) -> Float[Tensor, "R 3"]:
    """u_k = r_k sum_i g_i x_i^k: what a row adds to the gradient of w_k. Destroys ``work``."""
    sums = x.new_empty(x.shape[0], 3)
    torch.sum(torch.mul(g, x, out=work), dim=-1, out=sums[:, 0])
    torch.sum(work.mul_(x), dim=-1, out=sums[:, 1])
    torch.sum(work.mul_(x), dim=-1, out=sums[:, 2])
    return sums.mul_(inverse)


def backward(
    x: Float[Tensor, "R D"],
    g: Float[Tensor, "R D"],
    weight: Float[Tensor, " 3"],
    inverse: Float[Tensor, "R 3"],
    sums: Float[Tensor, "R 3"],
    work: tuple[Float[Tensor, "R D"], Float[Tensor, "R D"]],
    dx: Float[Tensor, "R D"],
) -> None:
    """Write dx = g (c_1 + 2 c_2 x + 3 c_3 x^2) - x (e_1 + 2 e_2 x^2 + 3 e_3 x^4). Destroys ``work``.

    c_k = w_k r_k and e_k = c_k u_k r_k / D; products of inverse norms are formed so that none leaves float32.
    """
    order = torch.arange(1, 4, device=x.device, dtype=x.dtype)
    c = order * weight * inverse
    c1, c2, c3 = _columns(c)
    e1, e2, e3 = _columns(c * sums * inverse / x.shape[1])
    square, pull = work
    torch.mul(x, x, out=square)
    torch.mul(square, e3, out=pull).add_(e2).mul_(square).add_(e1).mul_(x)
    torch.mul(x, c3, out=dx).add_(c2).mul_(x).add_(c1).mul_(g).sub_(pull)


def _columns(c: Float[Tensor, "R 3"]) -> tuple[Tensor, Tensor, Tensor]:
    return c[:, 0:1], c[:, 1:2], c[:, 2:3]
