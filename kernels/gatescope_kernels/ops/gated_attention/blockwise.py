"""Gated attention in vectorised torch, tile by tile: nothing here ever has T x S elements."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from gatescope_kernels.ops.gated_attention import passes
from gatescope_kernels.ops.gated_attention.problem import Problem

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S V"],
    sink: Float[Tensor, " H"] | None,
    problem: Problem,
) -> tuple[Float[Tensor, "B H T V"], dict[str, Tensor]]:
    """Attention before the gate and the statistics in ``problem.stats``; differentiable in q, k, v and sink.

    Statistics are in the accumulation dtype. The README has the derivation of both passes.
    """
    out, *statistics = _Attend.apply(q, k, v, sink, problem)
    named = zip(("lse", "entropy", "max_logit", "mass", "key_mass", "sink_mass"), statistics, strict=True)
    return out, {name: value for name, value in named if value is not None}


class _Grads(NamedTuple):
    """Upstream gradients, None where nothing downstream used the output."""

    out: Tensor | None
    lse: Tensor | None
    entropy: Tensor | None
    max_logit: Tensor | None
    mass: Tensor | None
    key_mass: Tensor | None
    sink_mass: Tensor | None


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, sink, problem):
        ctx.set_materialize_grads(False)
        if passes.flash_applies(q, v, problem):
            out, lse = passes.flash_forward(q, k, v, problem)
        else:
            out, lse = passes.tile_forward(q, k, v, problem)
        sink_mass = None
        if sink is not None:
            z = sink.to(problem.dtype)[:, None]
            out = out * torch.sigmoid(lse - z)[..., None].to(out.dtype)
            lse = torch.logaddexp(lse, z)
            sink_mass = torch.exp(z - lse)
        entropy, max_logit, argmax, key_mass = passes.tile_statistics(q, k, lse, sink_mass, problem)
        mass = passes.chosen_mass(q, k, lse, problem) if "mass" in problem.stats else None
        ctx.problem = problem
        ctx.save_for_backward(q, k, v, sink, out, lse, entropy, argmax, mass, sink_mass)
        return out, lse, entropy, max_logit, mass, key_mass, sink_mass

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        dq, dk, dv, dsink = passes.backward(_Grads(*grads), *ctx.saved_tensors, ctx.problem)
        return dq, dk, dv, dsink, None
