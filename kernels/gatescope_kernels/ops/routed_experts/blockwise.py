"""Routed experts in vectorised torch, on any device: permute, one product a run of rows, combine.

Nothing here holds more than R x max(D, F) elements of activations, R being the N k assignments and their padding.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag, silu

from gatescope_kernels.ops._common import accumulation_dtype
from gatescope_kernels.ops.routed_experts.layout import Layout, Strip, permute


def mix(
    x: Float[Tensor, "N D"],
    expert_index: Int[Tensor, "N k"],
    expert_weight: Float[Tensor, "N k"],
    w_gate: Float[Tensor, "E D F"],
    w_up: Float[Tensor, "E D F"],
    w_down: Float[Tensor, "E F D"],
) -> Float[Tensor, "N D"]:
    """The output of every token, summed over its named experts.

    Differentiable once, in x, expert_weight, w_gate, w_up and w_down.
    """
    E, D, F = w_gate.shape
    layout = permute(expert_index, E, D, F)
    return _Mix.apply(x, expert_weight, w_gate, w_up, w_down, layout)


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, w_gate: Tensor, w_up: Tensor, w_down: Tensor, layout: Layout
    ) -> Tensor:
        dtype, D, F = accumulation_dtype(x), x.shape[1], w_gate.shape[2]
        keep = any(ctx.needs_input_grad)
        R = len(layout.token)
        gate, up = (torch.empty(R if keep else layout.longest, F, dtype=dtype, device=x.device) for _ in range(2))
        y = torch.empty(R, D, dtype=dtype, device=x.device)
        room = torch.empty(layout.longest, D, dtype=dtype, device=x.device)
        with torch.inference_mode():  # hundreds of small calls, each the faster for it
            for strip in layout.strips:
                rows = _gather(x, layout, strip, room)
                g, u = (strip.of(buffer) if keep else buffer[: len(rows)] for buffer in (gate, up))
                hidden_blocks = strip.blocks(g)
                _products(
                    strip.blocks(rows),
                    (strip.experts(w_gate), hidden_blocks),
                    (strip.experts(w_up), strip.blocks(u)),
                )
                hidden = silu(g) if keep else silu(g, inplace=True)
                hidden *= u
                if keep:
                    hidden_blocks = strip.blocks(hidden)
                _products(hidden_blocks, (strip.experts(w_down), strip.blocks(strip.of(y))))
        if keep:
            ctx.layout = layout
            ctx.save_for_backward(x, weight, w_gate, w_up, w_down, gate, up)
        return embedding_bag(layout.row, y, mode="sum", per_sample_weights=weight.to(dtype)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple:
        x, weight, w_gate, w_up, w_down, gate, up = ctx.saved_tensors
        layout, dtype = ctx.layout, accumulation_dtype(x)
        wants_x, wants_weight, *wants = ctx.needs_input_grad[:5]
        dw_gate, dw_up, dw_down = (
            _zero_where_idle(w, layout) if wanted else None
            for w, wanted in zip((w_gate, w_up, w_down), wants, strict=True)
        )
        R = len(layout.token)
        weight_R = torch.zeros(R, dtype=dtype, device=x.device)
        weight_R[layout.row.flatten()] = weight.flatten().to(dtype)
        dweight_R = torch.empty_like(weight_R)
        dx_R = torch.empty(R, x.shape[1], dtype=dtype, device=x.device) if wants_x else None
        room = [torch.empty(layout.longest, x.shape[1], dtype=dtype, device=x.device) for _ in range(2)]
        with torch.inference_mode():
            for strip in layout.strips:
                g, u, scale = strip.of(gate), strip.of(up), strip.of(weight_R)[:, None]
                dout_blocks, dhidden = strip.blocks(_gather(dy, layout, strip, room[0])), torch.empty_like(g)
                _products(dout_blocks, (strip.experts(w_down.mT), strip.blocks(dhidden)))
                act = silu(g)
                hidden = act * u
                torch.sum(dhidden * hidden, 1, out=strip.of(dweight_R))
                if dw_down is not None:
                    hidden *= scale
                    _products(_transposed(strip.blocks(hidden)), (dout_blocks, strip.experts(dw_down)))
                dhidden *= scale
                dup = act.mul_(dhidden)
                dgate = torch.ops.aten.silu_backward(dhidden.mul_(u), g)
                dgate_blocks, dup_blocks = strip.blocks(dgate), strip.blocks(dup)
                wanted = [
                    (blocks, strip.experts(dw))
                    for blocks, dw in ((dgate_blocks, dw_gate), (dup_blocks, dw_up))
                    if dw is not None
                ]
                if wanted:
                    _products(_transposed(strip.blocks(_gather(x, layout, strip, room[1]))), *wanted)
                if dx_R is not None:
                    dx_blocks = strip.blocks(strip.of(dx_R))
                    _products(dgate_blocks, (strip.experts(w_gate.mT), dx_blocks))
                    _products(dup_blocks, (strip.experts(w_up.mT), dx_blocks), add=True)
        dx = None if dx_R is None else embedding_bag(layout.row, dx_R, mode="sum").to(x.dtype)
        dweight = dweight_R[layout.row].to(weight.dtype) if wants_weight else None
        return dx, dweight, dw_gate, dw_up, dw_down, None


def _gather(x: Tensor, layout: Layout, strip: Strip, room: Tensor) -> Tensor:
    """The strip's rows of x, in ``room``; padding is zero, so that it adds nothing to a sum over rows."""
    token = strip.of(layout.token)
    rows = room[: len(token)]
    if rows.dtype == x.dtype:
        torch.index_select(x, 0, token, out=rows)
    else:
        rows.copy_(x.index_select(0, token))
    return rows if strip.padding is None else rows.index_fill_(0, strip.padding, 0.0)


def _products(left: list[Tensor], *pairs: tuple[list[Tensor], list[Tensor]], add: bool = False) -> None:
    """For pairs (right, out): out = left right of every run, or added to it, accumulated in what ``left`` has.

    A run is multiplied by all that it meets before the next one comes: its rows are still at hand.
    """
    dtype = left[0].dtype
    exact = all(blocks[0].dtype == dtype for pair in pairs for blocks in pair)
    for a, met in zip(left, zip(*(zip(*pair, strict=True) for pair in pairs), strict=True), strict=True):
        for b, c in met:
            if add:
                c.baddbmm_(a, b.to(dtype))
            elif exact:
                torch.bmm(a, b, out=c)
            else:
                c.copy_(torch.bmm(a, b.to(dtype)))


def _transposed(blocks: list[Tensor]) -> list[Tensor]:
    return [block.mT for block in blocks]


def _zero_where_idle(w: Tensor, layout: Layout) -> Tensor:
    """A buffer for the gradient of w: zero for the experts that no token names, uninitialised for the others."""
    buffer = torch.empty(w.shape, dtype=w.dtype, device=w.device)
    for expert in layout.idle:
        buffer[expert].zero_()
    return buffer
