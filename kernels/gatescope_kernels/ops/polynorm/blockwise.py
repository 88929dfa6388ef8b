"""PolyNorm and PolyReLU in vectorised torch, on any device: every block of rows is read once and stays in the cache.

Saved for the backward pass: x, the coefficients and three inverse norms a row, never a power of x.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from gatescope_kernels.ops._common import accumulation_dtype
from gatescope_kernels.ops.polynorm import rows as row_block
from gatescope_kernels.ops.polynorm.blocks import Scratch, blocks, store

#: Rows whose third inverse norm is smaller are divided by their largest magnitude first: x^6, and the square of an
#: inverse norm in the backward pass, would leave float32.
RESCALE_BELOW = 1e-12


def polynorm(
    x: Float[Tensor, "*rows D"], weight: Float[Tensor, " 3"], bias: Float[Tensor, " 1"] | None, eps: float
) -> Float[Tensor, "*rows D"]:
    """y = w_0 N(x^3) + w_1 N(x^2) + w_2 N(x) + b. Differentiable once, in x, weight and bias."""
    return _PolyNorm.apply(x, weight, bias, eps)


def polyrelu(x: Float[Tensor, "*rows D"], weight: Float[Tensor, " 4"]) -> Float[Tensor, "*rows D"]:
    """y = sum_i a_i relu(x)^i. Differentiable once, in x and weight."""
    return _PolyReLU.apply(x, weight)


class _PolyNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        dtype = accumulation_dtype(x)
        x_ND = x.reshape(-1, x.shape[-1])
        y_ND = torch.empty(x_ND.shape, dtype=x.dtype, device=x.device)
        w, b = weight.to(dtype).flip(0), None if bias is None else bias.to(dtype)
        inverse_N3 = torch.empty(len(x_ND), 3, dtype=dtype, device=x.device)
        scratch = Scratch(x_ND, dtype)
        for block in blocks(*x_ND.shape):
            rows, y = scratch.read("x", x_ND[block]), scratch.target("y", y_ND[block])
            inverse_N3[block] = row_block.inverse_norms(rows, eps, scratch.buffer("work", rows))
            row_block.forward(rows, w, b, inverse_N3[block], y)
            store(y, y_ND[block])
        for chosen, z, _, inverse in _rescaled(x_ND, inverse_N3, eps):
            y = torch.empty_like(z)
            row_block.forward(z, w, b, inverse, y)
            y_ND[chosen] = y.to(x.dtype)
        ctx.eps, ctx.bias_dtype = eps, None if bias is None else bias.dtype
        ctx.save_for_backward(x, weight, inverse_N3)
        return y_ND.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple:
        x, weight, inverse_N3 = ctx.saved_tensors
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        dtype = inverse_N3.dtype
        x_ND, dy_ND = x.reshape(-1, x.shape[-1]), dy.reshape(-1, x.shape[-1])
        dx_ND = torch.empty(x_ND.shape, dtype=x.dtype, device=x.device) if for_x else None
        w = weight.to(dtype).flip(0)
        sums_N3, dbias_N = torch.zeros_like(inverse_N3), torch.zeros_like(inverse_N3[:, 0])
        scratch = Scratch(x_ND, dtype)
        for block in blocks(*x_ND.shape):
            rows, g, inverse = scratch.read("x", x_ND[block]), scratch.read("g", dy_ND[block]), inverse_N3[block]
            if for_bias:
                torch.sum(g, -1, out=dbias_N[block])
            if for_x or for_weight:
                sums_N3[block] = row_block.row_sums(rows, g, inverse, scratch.buffer("work", rows))
            if dx_ND is not None:
                dx = scratch.target("dx", dx_ND[block])
                buffers = scratch.buffer("work", rows), scratch.buffer("pull", rows)
                row_block.backward(rows, g, w, inverse, sums_N3[block], buffers, dx)
                store(dx, dx_ND[block])
        if for_x or for_weight:
            for chosen, z, size, inverse in _rescaled(x_ND, inverse_N3, ctx.eps):
                g, work = dy_ND[chosen].to(dtype), torch.empty_like(z)
                sums_N3[chosen] = sums = row_block.row_sums(z, g, inverse, work)
                if dx_ND is not None:
                    dz = torch.empty_like(z)
                    row_block.backward(z, g, w, inverse, sums, (work, torch.empty_like(z)), dz)
                    dx_ND[chosen] = dz.div_(size).to(x.dtype)
        return (
            None if dx_ND is None else dx_ND.view(x.shape),
            sums_N3.sum(0).flip(0).to(weight.dtype) if for_weight else None,
            dbias_N.sum().reshape(1).to(ctx.bias_dtype) if for_bias else None,
            None,
        )


def _rescaled(
    x_ND: Tensor, inverse_N3: Tensor, eps: float
) -> Iterator[tuple[Tensor, Float[Tensor, "R D"], Float[Tensor, "R 1"], Float[Tensor, "R 3"]]]:
    """Very large finite rows, in blocks: which, z = x / size, size, and the inverse norms of z.

    N(x^k) = z^k / sqrt(mean(z^2k) + eps / size^2k), the same number without the large powers.
    """
    dtype = inverse_N3.dtype
    large = (inverse_N3[:, 2] < RESCALE_BELOW).nonzero()[:, 0]
    for block in blocks(len(large), x_ND.shape[1]):
        chosen = large[block]
        z = x_ND[chosen].to(dtype)
        size = z.abs().amax(-1, keepdim=True)
        finite = size[:, 0].isfinite()
        chosen, z, size = chosen[finite], z[finite], size[finite].clamp_(min=1.0)
        z /= size
        shrunk = size.reciprocal().square() ** torch.arange(1, 4, device=z.device) * eps
        yield chosen, z, size, row_block.inverse_norms(z, shrunk, torch.empty_like(z))


class _PolyReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        dtype = accumulation_dtype(x)
        x_N1 = x.reshape(-1, 1)
        y_N1 = torch.empty(x_N1.shape, dtype=x.dtype, device=x.device)
        a0, a1, a2, a3 = weight.to(dtype)
        scratch = Scratch(x_N1, dtype)
        for block in blocks(*x_N1.shape):
            y = scratch.target("y", y_N1[block])
            r = torch.clamp_min(scratch.read("r", x_N1[block]), 0.0, out=scratch.buffer("r", y))
            torch.mul(r, a3, out=y).add_(a2).mul_(r).add_(a1).mul_(r).add_(a0)
            store(y, y_N1[block])
        ctx.save_for_backward(x, weight)
        return y_N1.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple:
        x, weight = ctx.saved_tensors
        for_x, for_weight = ctx.needs_input_grad
        dtype = accumulation_dtype(x)
        x_N1, dy_N1 = x.reshape(-1, 1), dy.reshape(-1, 1)
        dx_N1 = torch.empty(x_N1.shape, dtype=x.dtype, device=x.device) if for_x else None
        _, a1, a2, a3 = weight.to(dtype)
        totals = torch.zeros(4, dtype=dtype, device=x.device)
        scratch = Scratch(x_N1, dtype)
        for block in blocks(*x_N1.shape):
            g = scratch.read("g", dy_N1[block])
            r = torch.clamp_min(scratch.read("r", x_N1[block]), 0.0, out=scratch.buffer("r", g))
            if dx_N1 is not None:
                slope = scratch.buffer("work", r)
                torch.mul(r, 3 * a3, out=slope).add_(2 * a2).mul_(r).add_(a1).mul_(g)
                dx_N1[block] = slope.masked_fill_(r == 0, 0.0)
            if for_weight:
                work = scratch.buffer("work", r).copy_(g)
                totals += torch.stack([work.sum(), *(work.mul_(r).sum() for _ in range(3))])
        return None if dx_N1 is None else dx_N1.view(x.shape), totals.to(weight.dtype) if for_weight else None
