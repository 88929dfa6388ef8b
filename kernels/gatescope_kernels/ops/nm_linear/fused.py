"""N:M masked linear in Triton: the weight is ranked and masked once, then three products read plain tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from gatescope_kernels.ops._launch import launch, precision, target
from gatescope_kernels.ops.nm_linear.bits import BITS
from gatescope_kernels.ops.nm_linear.fused_kernels import mask_kernel, product_kernel, weight_gradient_kernel


@dataclass(frozen=True, slots=True)
class Tile:
    """A program's part of a product: ``rows`` x ``columns`` of the result, ``inner`` summed at a time. Programs take
    ``group`` tiles down before they go one to the right, so that those that run together read the same operands."""

    rows: int
    columns: int
    inner: int
    warps: int
    stages: int
    group: int = 8


#: Fewer tiles of 128 x 128 than this leave multiprocessors idle: smaller ones are taken.
_FULL = 128
#: Weights that a program of the mask ranks, and the widest run of one row among them.
_RANKED, _RANKED_RUN = 1024, 512


def _tile(x: Tensor, rows: int, columns: int, plain: bool) -> Tile:
    """By the result's size, the dtype, the machine, and whether the result is stored as it is: what is added to one
    that is not ``plain`` takes registers. In float32 a product on NVIDIA is three of TF32, which take more of them.
    """
    name, single = target(x).name, x.dtype == torch.float32
    if name == "interpreter":
        return Tile(64, 64, 64, warps=4, stages=1, group=2)
    if triton.cdiv(rows, 128) * triton.cdiv(columns, 128) < _FULL:
        return Tile(64, 64, 16, warps=4, stages=4) if single else Tile(64, 64, 64, warps=4, stages=3)
    if name.startswith("gfx"):
        return Tile(128, 128, 32 if single else 64, warps=8, stages=2)
    if name.startswith(("sm_9", "sm_10")):
        wide = 256 if plain else 128
        return Tile(128, 128, 32, warps=8, stages=3) if single else Tile(128, wide, 64, warps=8, stages=4)
    return Tile(128, 64, 32, warps=8, stages=3) if single else Tile(128, 128, 64, warps=8, stages=3)


def mask_of(weight: Float[Tensor, "F D"], n: int, m: int) -> Bool[Tensor, "F D"]:
    """True on the n largest magnitudes of each m contiguous inputs; of equals, on the lowest index. NaN is largest."""
    return _rank(weight.detach(), n, m, masked=False)[0]


def linear(
    x: Float[Tensor, "*B D"],
    weight: Float[Tensor, "F D"],
    bias: Float[Tensor, " F"] | None,
    n: int,
    m: int,
    backward: str,
    decay: float,
) -> Float[Tensor, "*B F"]:
    """x (w * mask)^T + b. Differentiable once, in x, weight and bias; deterministic."""
    return _NMLinear.apply(x, weight, bias, n, m, backward, decay)


class _NMLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, n: int, m: int, backward: str, decay: float
    ) -> Tensor:
        mask, kept = _rank(weight, n, m, masked=True)
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight, mask)
        ctx.backward_kind, ctx.decay = backward, decay
        y = _product(x.reshape(-1, x.shape[-1]), kept.mT, bias)
        return y.view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple:
        x, weight, mask = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        rows = dy.reshape(-1, dy.shape[-1])
        dx = _product(rows, weight * mask).view(*dy.shape[:-1], -1) if wants_x else None
        dweight = None
        if wants_weight:
            dweight = _weight_gradient(rows, x.reshape(-1, x.shape[-1]), weight, mask, ctx.backward_kind, ctx.decay)
        dbias = rows.sum(0) if wants_bias else None
        return dx, dweight, dbias, None, None, None, None


def _rank(weight: Tensor, n: int, m: int, masked: bool) -> tuple[Tensor, Tensor | None]:
    """The mask, and with ``masked`` w * mask, both [F D] and contiguous."""
    F, D = weight.shape
    mask = torch.empty(F, D, dtype=torch.bool, device=weight.device)
    kept = torch.empty(F, D, dtype=weight.dtype, device=weight.device) if masked else None
    run = min(_RANKED_RUN, triton.next_power_of_2(D))
    tile = _RANKED // run, run
    programs = triton.cdiv(F, tile[0]) * triton.cdiv(D, tile[1])
    integer, infinity = BITS[weight.dtype]
    launch(
        mask_kernel,
        (programs,),
        weight.view(integer),
        mask,
        kept,
        F,
        D,
        *weight.stride(),
        KEPT=n,
        GROUP=m,
        MAGNITUDE=torch.iinfo(integer).max,
        NOT_A_NUMBER=infinity + 1,
        TILE_F=tile[0],
        TILE_D=tile[1],
    )
    return mask, kept


def _product(a: Float[Tensor, "rows inner"], b: Float[Tensor, "inner columns"], bias: Tensor | None = None) -> Tensor:
    rows, inner, columns = *a.shape, b.shape[1]
    out = a.new_empty(rows, columns)
    tile = _tile(a, rows, columns, plain=True)
    launch(
        product_kernel,
        _grid(rows, columns, tile),
        a,
        b,
        bias,
        out,
        rows,
        columns,
        inner,
        *a.stride(),
        *b.stride(),
        bias.stride(0) if bias is not None else 1,
        **_constants(a, tile),
    )
    return out


def _weight_gradient(dy: Tensor, x: Tensor, weight: Tensor, mask: Tensor, rule: str, decay: float) -> Tensor:
    F, D = weight.shape
    out = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    tile = _tile(x, F, D, plain=False)
    launch(
        weight_gradient_kernel,
        _grid(F, D, tile),
        dy,
        x,
        weight.contiguous(),
        mask,
        out,
        F,
        D,
        len(x),
        *dy.stride(),
        *x.stride(),
        float(decay),
        RULE=rule,
        **_constants(x, tile),
    )
    return out


def _grid(rows: int, columns: int, tile: Tile) -> tuple[int]:
    return (triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns),)


def _constants(x: Tensor, tile: Tile) -> dict[str, Any]:
    return {
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "INNER": tile.inner,
        "DOWN": tile.group,
        "PRECISION": precision(x),
        "warps": tile.warps,
        "stages": tile.stages,
    }
