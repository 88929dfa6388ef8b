"""Gated attention in Triton: one forward pass, a second for key mass, and a backward without atomics.

What each kernel computes stands in its docstring, the derivation in the README.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import triton
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from gatescope_kernels.ops._launch import Target, channels_last, launch, padded, precision, target
from gatescope_kernels.ops.gated_attention.backward import Upstream
from gatescope_kernels.ops.gated_attention.fused_backward import (
    key_gradient,
    query_gradient,
    row_terms,
    survey_keys,
)
from gatescope_kernels.ops.gated_attention.fused_forward import attend_rows, key_mass_pass
from gatescope_kernels.ops.gated_attention.problem import Problem


class Tile(NamedTuple):
    """How a kernel is cut: rows and keys of a score tile, warps, and stages of its pipeline."""

    rows: int
    keys: int
    warps: int
    stages: int


def tile(kernel: Any, width: int, dtype: torch.dtype, where: Target) -> Tile:
    """The tile of ``kernel`` for heads padded to ``width`` channels: the largest known not to spill.

    float32 is three TF32 products on NVIDIA, which keep both halves of every operand in registers: tiles are small.
    Heads of more than 256 bytes a position are outside the productions; their tiles fit into shared memory.
    """
    if where.backend == "interpreter":
        return Tile(128, 64, 4, 1)
    if kernel is row_terms:
        return Tile(32, 0, 4, 1)
    score_alone, wide = kernel in (key_mass_pass, survey_keys), width * dtype.itemsize > 256
    if where.backend == "hip":  # eight warps would halve the registers of a thread
        if wide or kernel is key_gradient:
            return Tile(32, 32, 4, 1)
        return Tile(64, 64, 4, 2 if score_alone else 1)
    older = where.name == "sm_80"
    if dtype == torch.float32:
        if score_alone:
            return Tile(32, 32, 4, 1 if wide else 2)
        if wide or kernel is key_gradient or (kernel is query_gradient and where.name in ("sm_80", "sm_90")):
            return Tile(16, 32, 4, 1)
        if kernel is attend_rows:
            return Tile(16, 64, 4, 1) if older else Tile(64, 32, 4, 1)
        return Tile(64, 32, 8, 1)
    if wide:
        return Tile(32, 32, 4, 2) if score_alone else Tile(32, 32, 8, 1)
    if score_alone:
        return Tile(64, 64, 4, 2)
    if kernel is key_gradient:
        return Tile(32, 64 if older else 128, 8, 2)
    if older:
        return Tile(64, 64, 4 if kernel is attend_rows else 8, 2)
    return Tile(128, 64, 8, 2)


def attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S V"],
    gate: Float[Tensor, "B H T W"] | None,
    combine: str,
    sink: Float[Tensor, " H"] | None,
    problem: Problem,
) -> tuple[Float[Tensor, "B H T V"], dict[str, Tensor]]:
    """Gated attention in q's dtype, and the statistics in ``problem.stats`` in float32.

    Differentiable once, in q, k, v, gate and sink, for every result.
    """
    if problem.scale <= 0:  # the running maximum takes a positive scale out of the products
        q, problem = q * (-1.0 if problem.scale < 0 else 0.0), replace(problem, scale=abs(problem.scale) or 1.0)
    out, *statistics = _Attend.apply(q, k, v, gate, sink, combine, problem)
    named = zip(Upstream._fields[1:], statistics, strict=True)
    return out, {name: value for name, value in named if value is not None}


@dataclass(frozen=True, slots=True)
class _Sides:
    """What all kernels of one call are told alike."""

    problem: Problem
    K: int
    V: int
    dtype: torch.dtype
    where: Target
    precision: str
    mask: Tensor | None
    chosen: Tensor | None

    @classmethod
    def of(cls, q: Tensor, v: Tensor, problem: Problem) -> _Sides:
        mask = None if problem.key_mask is None else problem.key_mask.contiguous().view(torch.uint8)
        chosen = None
        if "mass" in problem.stats:
            chosen = torch.tensor(problem.keys, dtype=torch.int32, device=problem.device)
        return cls(problem, q.shape[-1], v.shape[-1], q.dtype, target(q), precision(q), mask, chosen)

    def tile(self, kernel: Any) -> Tile:
        return tile(kernel, max(padded(self.K), padded(self.V)), self.dtype, self.where)

    @property
    def visible(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        return self.mask, self.problem.start, self.problem.stop

    @property
    def numbers(self) -> tuple[float, int, int]:
        """scale, window and sink tokens, the latter two no larger than they can matter."""
        rule, longest = self.problem.visibility, self.problem.T + self.problem.S
        return self.problem.scale, min(rule.window or longest, longest), min(rule.sink_tokens, self.problem.S)

    def constants(self, t: Tile, *, values: bool = True) -> dict[str, Any]:
        p = self.problem
        of_values = {"V": self.V, "VP": padded(self.V)} if values else {}
        return of_values | {
            "R": p.H // p.G,
            "K": self.K,
            "KP": padded(self.K),
            "M": t.rows,
            "N": t.keys,
            "CAUSAL": p.visibility.causal,
            "WINDOWED": p.visibility.window is not None,
            "PRECISION": self.precision,
            "warps": t.warps,
            "stages": t.stages,
        }


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, sink: Tensor | None, combine: str, p: Problem
    ) -> tuple:
        ctx.set_materialize_grads(False)
        q, k, v = (channels_last(x) for x in (q, k, v))
        gate = None if gate is None else channels_last(gate)
        s = _Sides.of(q, v, p)
        needs_q, needs_k, needs_v, needs_gate, needs_sink, *_ = ctx.needs_input_grad
        add = combine == "add"
        keep = needs_q or needs_k or needs_v or needs_sink if add else needs_gate

        def rows(wanted: bool, *more: int) -> Tensor | None:
            return q.new_empty(p.B, p.H, p.T, *more, dtype=torch.float32) if wanted else None

        out = q.new_empty(p.B, p.H, p.T, s.V)
        plain = torch.empty_like(out) if gate is not None and keep else None
        lse, entropy, max_logit = rows(True), rows("entropy" in p.stats), rows("max_logit" in p.stats)
        mass, sink_mass = rows(s.chosen is not None, len(p.keys)), rows(sink is not None)
        t = s.tile(attend_rows)
        launch(
            attend_rows, (p.B * p.H * triton.cdiv(p.T, t.rows),),
            q, k, v, gate, sink, *s.visible, s.chosen, out, plain, lse, entropy, max_logit, mass, sink_mass,
            *_strides(q, k, v, gate), p.H, p.T, p.S, len(p.keys), *s.numbers,
            ELEMENTWISE=gate is not None and gate.shape[-1] > 1, ADD=add, **s.constants(t),
        )  # fmt: skip
        key_mass = None
        if "key_mass" in p.stats:
            key_mass = q.new_empty(p.B, p.H, p.S, dtype=torch.float32)
            t = s.tile(key_mass_pass)
            launch(
                key_mass_pass, (p.B * p.H * triton.cdiv(p.S, t.keys),),
                q, k, lse, *s.visible, key_mass, *_strides(q, k), p.H, p.T, p.S, *s.numbers,
                **s.constants(t, values=False),
            )  # fmt: skip
        ctx.sides, ctx.add = s, add
        ctx.save_for_backward(q, k, v, gate, sink, out, plain, lse, entropy, mass)
        return out, lse, entropy, max_logit, mass, key_mass, sink_mass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple:
        s: _Sides = ctx.sides
        p = s.problem
        q, k, v, gate, sink, out, plain, lse, entropy, mass = ctx.saved_tensors
        needs_q, needs_k, needs_v, needs_gate, needs_sink, *_ = ctx.needs_input_grad
        up = Upstream(grads[0], *(x if x is None else x.contiguous() for x in grads[1:]))
        d_out = torch.zeros_like(out) if up.out is None else channels_last(up.out)
        chosen_terms = None if up.mass is None else mass * up.mass

        mean = None if up.key_mass is None else torch.empty_like(lse)
        top_keys = None if up.max_logit is None else torch.empty_like(lse, dtype=torch.int32)
        if mean is not None or top_keys is not None:
            t = s.tile(survey_keys)
            launch(
                survey_keys, (p.B * p.H * triton.cdiv(p.T, t.rows),),
                q, k, lse, up.key_mass, *s.visible, mean, top_keys, *_strides(q, k), p.H, p.T, p.S, *s.numbers,
                **s.constants(t, values=False),
            )  # fmt: skip

        multiplied = gate is not None and not ctx.add
        a, d_y, d_gate = torch.empty_like(lse), d_out, None
        d_sink_rows = None if sink is None else torch.empty_like(lse)
        if multiplied:
            d_y = torch.empty_like(out)
            d_gate = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device) if needs_gate else None
        elif gate is not None and needs_gate:
            d_gate = d_out if gate.shape[-1] > 1 or s.V == 1 else d_out.sum(-1, keepdim=True)
        t = s.tile(row_terms)
        launch(
            row_terms, (p.B * p.H * triton.cdiv(p.T, t.rows),),
            d_out, gate if multiplied else None, out if plain is None else plain, lse, entropy, sink,
            up.lse, up.entropy, chosen_terms, mean, up.sink_mass,
            a, d_y if multiplied else None, d_gate if multiplied else None, d_sink_rows,
            *_strides(d_out, gate), p.H, p.T, len(p.keys),
            V=s.V, VP=padded(s.V), M=t.rows, ELEMENTWISE=multiplied and gate.shape[-1] > 1,
            GATED=multiplied and plain is None, warps=t.warps, stages=t.stages,
        )  # fmt: skip
        d_sink = d_sink_rows.sum((0, 2)).to(sink.dtype) if needs_sink else None

        dq = dk = dv = None
        if needs_q:
            dq, t = torch.empty(q.shape, dtype=q.dtype, device=q.device), s.tile(query_gradient)
            launch(
                query_gradient, (p.B * p.H * triton.cdiv(p.T, t.rows),),
                q, k, v, d_y, lse, a, up.entropy, up.key_mass, up.max_logit, top_keys, chosen_terms, s.chosen,
                *s.visible, dq, *_strides(q, k, v, d_y), p.H, p.T, p.S, len(p.keys), *s.numbers, **s.constants(t),
            )  # fmt: skip
        if needs_k or needs_v:
            dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (k, v))
            t = s.tile(key_gradient)
            launch(
                key_gradient, (p.B * p.G * triton.cdiv(p.S, t.keys),),
                q, k, v, d_y, lse, a, up.entropy, up.key_mass, up.max_logit, top_keys, chosen_terms, s.chosen,
                *s.visible, dk, dv, *_strides(q, k, v, d_y), p.H, p.T, p.S, len(p.keys), *s.numbers, **s.constants(t),
            )  # fmt: skip
        return dq, dk, dv, d_gate, d_sink, None, None


def _strides(*tensors: Tensor | None) -> list[int]:
    return [stride for x in tensors for stride in ((0, 0, 0) if x is None else x.stride()[:3])]
