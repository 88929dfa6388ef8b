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
        for strip in layout.strips:
            rows = _gather(x, layout, strip)
            g, u = (strip.of(buffer) if keep else buffer[: len(rows)] for buffer in (gate, up))
            for run in strip.runs:
                _product(run.of(rows), w_gate[run.experts], run.of(g))
                _product(run.of(rows), w_up[run.experts], run.of(u))
            hidden = silu(g) if keep else silu(g, inplace=True)
            hidden *= u
            for run in strip.runs:
                _product(run.of(hidden), w_down[run.experts], run.of(strip.of(y)))
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
        for strip in layout.strips:
            g, u, scale = strip.of(gate), strip.of(up), strip.of(weight_R)[:, None]
            dout = _gather(dy, layout, strip)
            dhidden = torch.empty_like(g)
            for run in strip.runs:
                _product(run.of(dout), w_down[run.experts].mT, run.of(dhidden))
            act = silu(g)
            hidden = act * u
            torch.sum(dhidden * hidden, 1, out=strip.of(dweight_R))
            if dw_down is not None:
                hidden *= scale
                for run in strip.runs:
                    _product(run.of(hidden).mT, run.of(dout), dw_down[run.experts])
            dhidden *= scale
            dup = act.mul_(dhidden)
            dgate = torch.ops.aten.silu_backward(dhidden.mul_(u), g)
            if dw_gate is not None or dw_up is not None:
                rows = _gather(x, layout, strip)
                for dw, d in ((dw_gate, dgate), (dw_up, dup)):
                    if dw is not None:
                        for run in strip.runs:
                            _product(run.of(rows).mT, run.of(d), dw[run.experts])
            if dx_R is not None:
                for run in strip.runs:
                    dx = run.of(strip.of(dx_R))
                    _product(run.of(dgate), w_gate[run.experts].mT, dx)
                    dx.baddbmm_(run.of(dup), w_up[run.experts].mT.to(dtype))
        dx = None if dx_R is None else embedding_bag(layout.row, dx_R, mode="sum").to(x.dtype)
        dweight = dweight_R[layout.row].to(weight.dtype) if wants_weight else None
        return dx, dweight, dw_gate, dw_up, dw_down, None


def _gather(x: Tensor, layout: Layout, strip: Strip) -> Tensor:
    """The strip's rows of x; padding is zero, so that it adds nothing to a sum over rows."""
    rows = x.index_select(0, strip.of(layout.token)).to(accumulation_dtype(x))
    for run in strip.runs:
        if run.padding.stop > run.padding.start:
            rows[run.padding].zero_()
    return rows


def _product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """out = a b, accumulated in fp32 at least."""
    dtype = accumulation_dtype(a)
    if out.dtype == dtype:
        torch.bmm(a, b.to(dtype), out=out)
    else:
        out.copy_(torch.bmm(a, b.to(dtype)))


def _zero_where_idle(w: Tensor, layout: Layout) -> Tensor:
    """A buffer for the gradient of w: zero for the experts that no token names, uninitialised for the others."""
    buffer = torch.empty(w.shape, dtype=w.dtype, device=w.device)
    for expert in layout.idle:
        buffer[expert].zero_()
    return buffer
