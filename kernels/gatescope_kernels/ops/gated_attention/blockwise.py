"""Gated attention in vectorised torch, on any device. Nothing here ever holds T x S elements.

Where only the output and what follows from its LSE are asked for, and torch's CPU flash kernel knows the case, that
kernel runs; everything else is one visit to each strip of scores (strips.py).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from gatescope_kernels.ops.gated_attention.backward import Saved, Upstream, output_backward, strip_backward
from gatescope_kernels.ops.gated_attention.flash import flash_calls, flash_forward
from gatescope_kernels.ops.gated_attention.forward import chosen_mass, strip_forward
from gatescope_kernels.ops.gated_attention.gate import gated
from gatescope_kernels.ops.gated_attention.problem import Problem


def attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S V"],
    gate: Float[Tensor, "B H T W"] | None,
    combine: str,
    sink: Float[Tensor, " H"] | None,
    problem: Problem,
) -> tuple[Float[Tensor, "B H T V"], dict[str, Tensor]]:
    """Gated attention in q's dtype, and the statistics in ``problem.stats`` in the accumulation dtype.

    Differentiable once, in q, k, v, gate and sink, for every result.
    """
    y, *statistics = _Attend.apply(q, k, v, sink, problem)
    named = zip(Upstream._fields[1:], statistics, strict=True)
    return gated(y, gate, combine, q.dtype), {name: value for name, value in named if value is not None}


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, problem: Problem) -> tuple:
        ctx.set_materialize_grads(False)
        calls = flash_calls(q, v, problem)
        of_flash = None if calls is None else flash_forward(q, k, v, calls, problem)
        ctx.problem, ctx.calls = problem, None if of_flash is None else calls
        sink_mass = None
        if of_flash is not None:
            out, lse = of_flash
            found: dict[str, Tensor] = {}
            if sink is not None:
                z = sink.to(problem.dtype)[:, None]
                out = out * torch.sigmoid(lse - z)[..., None].to(out.dtype)
                lse = torch.logaddexp(lse, z)
        else:
            out, found = strip_forward(q, k, v, sink, problem)
            lse = found["lse"]
        if sink is not None:
            sink_mass = torch.exp(sink.to(problem.dtype)[:, None] - lse)
        mass = chosen_mass(q, k, lse, problem) if "mass" in problem.stats else None
        ctx.save_for_backward(*Saved(q, k, v, sink, out, lse, found.get("entropy"), mass))
        return out, lse, found.get("entropy"), found.get("max_logit"), mass, found.get("key_mass"), sink_mass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple:
        up, saved = Upstream(*grads), Saved(*ctx.saved_tensors)
        if ctx.calls is not None and up.out is not None and all(grad is None for grad in grads[1:]):
            return *output_backward(up.out, saved, ctx.calls, ctx.problem), None
        return *strip_backward(up, saved, ctx.problem), None
