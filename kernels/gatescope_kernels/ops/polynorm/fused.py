"""PolyNorm and PolyReLU in Triton: every element is read once in each pass and stays in registers until it is done.

Saved for the backward pass: the arguments, nothing else; norms are cheaper to compute again than to read.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from gatescope_kernels.ops._launch import launch

#: Elements of a program of PolyNorm where rows are narrow, and of PolyReLU.
ELEMENTS = 2048
#: Rows with a larger magnitude are divided by it first: x^6 would leave float32.
RESCALE_ABOVE = 512.0


def polynorm(
    x: Float[Tensor, "*rows D"], weight: Float[Tensor, " 3"], bias: Float[Tensor, " 1"] | None, eps: float
) -> Float[Tensor, "*rows D"]:
    """y = w_0 N(x^3) + w_1 N(x^2) + w_2 N(x) + b. Differentiable once, in x, weight and bias."""
    return _PolyNorm.apply(x, weight, bias, eps)


def polyrelu(x: Float[Tensor, "*rows D"], weight: Float[Tensor, " 4"]) -> Float[Tensor, "*rows D"]:
    """y = sum_i a_i relu(x)^i. Differentiable once, in x and weight."""
    return _PolyReLU.apply(x, weight)


def _tile(D: int) -> tuple[int, int, int]:
    """Rows and channels of a program, and its warps. A whole row is in registers."""
    channels = triton.next_power_of_2(D)
    rows = max(1, ELEMENTS // channels)
    return rows, channels, max(4, min(32, rows * channels // 512))


@triton.jit
def _row_norms(x, live, D, eps, RESCALE_ABOVE: tl.constexpr):
    """z = x / s, 1 / s and the inverse norms r_k of z^k, where s is a row's largest magnitude if that is large."""
    size = tl.max(tl.abs(x), 1)
    finite_and_large = (size > RESCALE_ABOVE) & (size < float("inf"))
    shrink = 1 / tl.where(finite_and_large, size, 1.0)
    z = tl.where(live, x * shrink[:, None], 0.0)
    z2 = z * z
    r1 = 1 / tl.sqrt_rn(tl.sum(z2, 1) / D + eps * shrink * shrink)
    r2 = 1 / tl.sqrt_rn(tl.sum(z2 * z2, 1) / D + eps * (shrink * shrink) * (shrink * shrink))
    r3 = 1 / tl.sqrt_rn(tl.sum(z2 * z2 * z2, 1) / D + eps * (shrink * shrink * shrink) * (shrink * shrink * shrink))
    return z, shrink, r1, r2, r3


@triton.jit
def polynorm_forward(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    N,
    D,
    x_row,
    x_channel,
    eps,
    HAS_BIAS: tl.constexpr,
    RESCALE_ABOVE: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """A program computes ROWS rows: y = b + z (w_2 r_1 + z (w_1 r_2 + z w_0 r_3))."""
    n = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, CHANNELS)
    live = (n[:, None] < N) & (d[None, :] < D)
    x = tl.load(x_ptr + n[:, None] * x_row + d[None, :] * x_channel, mask=live, other=0.0).to(tl.float32)
    z, _, r1, r2, r3 = _row_norms(x, live, D, eps, RESCALE_ABOVE)
    c3 = tl.load(weight_ptr).to(tl.float32) * r3
    c2 = tl.load(weight_ptr + 1).to(tl.float32) * r2
    c1 = tl.load(weight_ptr + 2).to(tl.float32) * r1
    y = ((z * c3[:, None] + c2[:, None]) * z + c1[:, None]) * z
    if HAS_BIAS:
        y += tl.load(bias_ptr).to(tl.float32)
    tl.store(y_ptr + n[:, None] * D + d[None, :], y.to(y_ptr.dtype.element_ty), mask=live)


@triton.jit
def polynorm_backward(
    x_ptr,
    weight_ptr,
    dy_ptr,
    dx_ptr,
    partial_ptr,
    N,
    D,
    x_row,
    x_channel,
    dy_row,
    dy_channel,
    eps,
    RESCALE_ABOVE: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """A program computes dx of ROWS rows, and its own share of dw_0, dw_1, dw_2 and db, which are summed afterwards."""
    n = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, CHANNELS)
    live = (n[:, None] < N) & (d[None, :] < D)
    x = tl.load(x_ptr + n[:, None] * x_row + d[None, :] * x_channel, mask=live, other=0.0).to(tl.float32)
    g = tl.load(dy_ptr + n[:, None] * dy_row + d[None, :] * dy_channel, mask=live, other=0.0).to(tl.float32)
    z, shrink, r1, r2, r3 = _row_norms(x, live, D, eps, RESCALE_ABOVE)
    gz = g * z
    u1 = tl.sum(gz, 1) * r1
    u2 = tl.sum(gz * z, 1) * r2
    u3 = tl.sum(gz * z * z, 1) * r3
    c3 = tl.load(weight_ptr).to(tl.float32) * r3
    c2 = tl.load(weight_ptr + 1).to(tl.float32) * r2
    c1 = tl.load(weight_ptr + 2).to(tl.float32) * r1
    # e_k = c_k u_k r_k / D; z^(k-1) goes in between, or the square of a small r_k leaves float32.
    z2 = z * z
    direct = c1[:, None] + z * (2 * c2[:, None] + 3 * z * c3[:, None])
    through_norms = (c1 * (u1 / D))[:, None] * (r1[:, None] * z)
    through_norms += 2 * (c2 * (u2 / D))[:, None] * (r2[:, None] * (z2 * z))
    through_norms += 3 * (c3 * (u3 / D))[:, None] * (r3[:, None] * (z2 * z2 * z))
    dx = (g * direct - through_norms) * shrink[:, None]
    tl.store(dx_ptr + n[:, None] * D + d[None, :], dx.to(dx_ptr.dtype.element_ty), mask=live)
    partial = partial_ptr + tl.program_id(0).to(tl.int64) * 4
    tl.store(partial, tl.sum(u3, 0))
    tl.store(partial + 1, tl.sum(u2, 0))
    tl.store(partial + 2, tl.sum(u1, 0))
    tl.store(partial + 3, tl.sum(tl.sum(g, 1), 0))


@triton.jit
def polyrelu_forward(x_ptr, weight_ptr, y_ptr, N, ELEMENTS: tl.constexpr):
    """A program computes ELEMENTS elements: y = a_0 + r (a_1 + r (a_2 + r a_3)), r = max(x, 0)."""
    n = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    x = tl.load(x_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    r = tl.where(x < 0, 0.0, x)
    y = tl.load(weight_ptr + 3).to(tl.float32) * r + tl.load(weight_ptr + 2).to(tl.float32)
    y = y * r + tl.load(weight_ptr + 1).to(tl.float32)
    y = y * r + tl.load(weight_ptr).to(tl.float32)
    tl.store(y_ptr + n, y.to(y_ptr.dtype.element_ty), mask=n < N)


@triton.jit
def polyrelu_backward(x_ptr, weight_ptr, dy_ptr, dx_ptr, partial_ptr, N, ELEMENTS: tl.constexpr):
    """A program computes dx of ELEMENTS elements, and its own share of da_0 to da_3, which are summed afterwards."""
    n = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    x = tl.load(x_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    g = tl.load(dy_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    r = tl.where(x < 0, 0.0, x)
    slope = 3 * tl.load(weight_ptr + 3).to(tl.float32) * r + 2 * tl.load(weight_ptr + 2).to(tl.float32)
    slope = slope * r + tl.load(weight_ptr + 1).to(tl.float32)
    dx = tl.where(r == 0, 0.0, g * slope)
    tl.store(dx_ptr + n, dx.to(dx_ptr.dtype.element_ty), mask=n < N)
    partial = partial_ptr + tl.program_id(0).to(tl.int64) * 4
    for power in tl.static_range(4):
        tl.store(partial + power, tl.sum(g, 0))
        g *= r


class _PolyNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        x_ND = x.reshape(-1, x.shape[-1])
        N, D = x_ND.shape
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        rows, channels, warps = _tile(D)
        launch(
            polynorm_forward,
            (triton.cdiv(N, rows),),
            *(x_ND, weight.contiguous(), None if bias is None else bias.contiguous(), y, N, D, *x_ND.stride(), eps),
            HAS_BIAS=bias is not None,
            RESCALE_ABOVE=RESCALE_ABOVE,
            ROWS=rows,
            CHANNELS=channels,
            warps=warps,
        )
        ctx.eps, ctx.bias_dtype = eps, None if bias is None else bias.dtype
        ctx.save_for_backward(x, weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple:
        x, weight = ctx.saved_tensors
        x_ND, dy_ND = x.reshape(-1, x.shape[-1]), dy.reshape(-1, x.shape[-1])
        N, D = x_ND.shape
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        rows, channels, warps = _tile(D)
        programs = triton.cdiv(N, rows)
        partial = torch.empty(programs, 4, dtype=torch.float32, device=x.device)
        launch(
            polynorm_backward,
            (programs,),
            *(x_ND, weight.contiguous(), dy_ND, dx, partial, N, D, *x_ND.stride(), *dy_ND.stride(), ctx.eps),
            RESCALE_ABOVE=RESCALE_ABOVE,
            ROWS=rows,
            CHANNELS=channels,
            warps=warps,
        )
        total = partial.sum(0)
        dbias = None if ctx.bias_dtype is None else total[3:].to(ctx.bias_dtype)
        return dx, total[:3].to(weight.dtype), dbias, None


class _PolyReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        y = torch.empty_like(x)
        N = x.numel()
        launch(polyrelu_forward, (triton.cdiv(N, ELEMENTS),), x, weight, y, N, ELEMENTS=ELEMENTS)
        ctx.save_for_backward(x, weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple:
        x, weight = ctx.saved_tensors
        dx = torch.empty_like(x)
        N = x.numel()
        programs = triton.cdiv(N, ELEMENTS)
        partial = torch.empty(programs, 4, dtype=torch.float32, device=x.device)
        arguments = x, weight, dy.contiguous(), dx, partial, N
        launch(polyrelu_backward, (programs,), *arguments, ELEMENTS=ELEMENTS)
        return dx, partial.sum(0).to(weight.dtype)
