"""Routed experts in Triton: two grouped products and a combine forward, four grouped products and a combine backward.

Loads stay on the device. Kept for the backward: the inputs and R x F pre-activations of gate and up, in x's dtype.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton import cdiv

from gatescope_kernels.ops._launch import launch, precision
from gatescope_kernels.ops.routed_experts.fused_backward import (
    down_weight_kernel,
    gate_up_weight_kernel,
    hidden_gradient_kernel,
    input_gradient_kernel,
)
from gatescope_kernels.ops.routed_experts.fused_forward import combine_kernel, down_kernel, swiglu_kernel
from gatescope_kernels.ops.routed_experts.fused_tiles import (
    Sizes,
    Tiles,
    combine_sizes,
    row_product,
    tile,
    tile_rows,
    weight_product,
)


def mix(
    x: Float[Tensor, "N D"],
    expert_index: Int[Tensor, "N k"],
    expert_weight: Float[Tensor, "N k"],
    w_gate: Float[Tensor, "E D F"],
    w_up: Float[Tensor, "E D F"],
    w_down: Float[Tensor, "E F D"],
) -> Float[Tensor, "N D"]:
    """The output of every token, summed over its named experts.

    Differentiable once, in x, expert_weight, w_gate, w_up and w_down; deterministic. Any strides are read as they are.
    """
    E = len(w_gate)
    tiles = tile(expert_index, E, tile_rows(x, expert_index.numel(), E))
    return _Mix.apply(x, expert_weight, w_gate, w_up, w_down, tiles)


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, w_gate: Tensor, w_up: Tensor, w_down: Tensor, tiles: Tiles
    ) -> Tensor:
        keep = any(ctx.needs_input_grad)
        _, D, F = w_gate.shape
        R = len(tiles.token)
        hidden = x.new_empty(R, F)
        gate, up = (torch.empty_like(hidden) if keep else hidden for _ in range(2))
        sizes = row_product("swiglu", x, tiles.rows, F, D)
        launch(
            swiglu_kernel,
            (len(tiles.table) * cdiv(F, sizes.columns),),
            *(x, *x.stride(), tiles.token, tiles.table),
            *(w_gate, *w_gate.stride(), w_up, *w_up.stride(), gate, up, hidden, D, F),
            KEEP=keep,
            **_options(x, sizes),
        )
        rows = x.new_empty(R, D)
        sizes = row_product("down", x, tiles.rows, D, F)
        launch(
            down_kernel,
            (len(tiles.table) * cdiv(D, sizes.columns),),
            *(hidden, tiles.table, w_down, *w_down.stride(), rows, D, F),
            **_options(x, sizes),
        )
        if keep:
            ctx.tiles = tiles
            ctx.save_for_backward(x, weight, w_gate, w_up, w_down, gate, up)
        return _combine(rows, tiles, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple:
        x, weight, w_gate, w_up, w_down, gate, up = ctx.saved_tensors
        tiles = ctx.tiles
        wants_x, wants_weight, wants_gate, wants_up, wants_down = ctx.needs_input_grad[:5]
        E, D, F = w_gate.shape
        R = len(tiles.token)
        sizes = row_product("hidden_gradient", x, tiles.rows, F, D)
        blocks = cdiv(F, sizes.columns)
        weight_R = torch.empty_like(gate[:, 0]).scatter_(0, tiles.row.flatten(), weight.flatten())
        dgate, dup, scaled = (torch.empty_like(gate) for _ in range(3))
        dweight_R = torch.empty(R, blocks, dtype=torch.float32, device=x.device)
        launch(
            hidden_gradient_kernel,
            (len(tiles.table) * blocks,),
            *(dy, *dy.stride(), tiles.token, tiles.table, w_down, *w_down.stride()),
            *(gate, up, weight_R, dgate, dup, scaled, dweight_R, D, F),
            **_options(x, sizes),
        )
        dx = _input_gradient(x, tiles, w_gate, w_up, dgate, dup) if wants_x else None
        dweight = dweight_R.sum(1)[tiles.row].to(weight.dtype) if wants_weight else None
        dw_gate = dw_up = dw_down = None
        if wants_gate or wants_up:
            dw_gate, dw_up = torch.empty_like(w_gate), torch.empty_like(w_up)
            sizes = weight_product("gate_up_weight", x, D, F)
            launch(
                gate_up_weight_kernel,
                (E * cdiv(D, sizes.rows) * cdiv(F, sizes.columns),),
                *(x, *x.stride(), tiles.token, tiles.end, dgate, dup),
                *(dw_gate, *dw_gate.stride(), dw_up, *dw_up.stride(), D, F),
                **_options(x, sizes),
            )
        if wants_down:
            dw_down = torch.empty_like(w_down)
            sizes = weight_product("down_weight", x, F, D)
            launch(
                down_weight_kernel,
                (E * cdiv(F, sizes.rows) * cdiv(D, sizes.columns),),
                *(scaled, dy, *dy.stride(), tiles.token, tiles.end, dw_down, *dw_down.stride(), D, F),
                **_options(x, sizes),
            )
        return dx, dweight, dw_gate if wants_gate else None, dw_up if wants_up else None, dw_down, None


def _input_gradient(x: Tensor, tiles: Tiles, w_gate: Tensor, w_up: Tensor, dgate: Tensor, dup: Tensor) -> Tensor:
    _, D, F = w_gate.shape
    rows = x.new_empty(len(dgate), D)
    sizes = row_product("input_gradient", x, tiles.rows, D, F)
    launch(
        input_gradient_kernel,
        (len(tiles.table) * cdiv(D, sizes.columns),),
        *(dgate, dup, tiles.table, w_gate, *w_gate.stride(), w_up, *w_up.stride(), rows, D, F),
        **_options(x, sizes),
    )
    return _combine(rows, tiles, None)


def _combine(rows: Tensor, tiles: Tiles, weight: Tensor | None) -> Tensor:
    """Add up the rows of each token, times its weights if there are any."""
    N, k = tiles.row.shape
    out = rows.new_empty(N, rows.shape[1])
    sizes = combine_sizes(rows)
    launch(
        combine_kernel,
        (cdiv(N, sizes.rows) * cdiv(rows.shape[1], sizes.columns),),
        *(rows, tiles.row, rows if weight is None else weight.contiguous(), out, N, rows.shape[1], k),
        warps=sizes.warps,
        stages=sizes.stages,
        WEIGHTED=weight is not None,
        TOKENS=sizes.rows,
        COLUMNS=sizes.columns,
    )
    return out


def _options(x: Tensor, sizes: Sizes) -> dict[str, Any]:
    return {
        "warps": sizes.warps,
        "stages": sizes.stages,
        "ROWS": sizes.rows,
        "COLUMNS": sizes.columns,
        "INNER": sizes.inner,
        "PRECISION": precision(x),
    }
