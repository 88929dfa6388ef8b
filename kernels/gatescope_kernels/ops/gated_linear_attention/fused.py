"""Gated linear attention in Triton: what is saved, and which kernels run in which order.

The derivation is in the README, the kernels in ``fused_pairs``, ``fused_states`` and ``fused_backward``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from gatescope_kernels.ops._launch import launch, precision
from gatescope_kernels.ops.gated_linear_attention.fused_backward import (
    delta_gradients,
    delta_pairs_backward,
    gla_gradients,
    gla_pairs_backward,
)
from gatescope_kernels.ops.gated_linear_attention.fused_pairs import delta_inverse, gla_pairs, gla_sums
from gatescope_kernels.ops.gated_linear_attention.fused_states import (
    delta_states,
    delta_states_backward,
    gla_outputs,
    gla_states,
    gla_states_backward,
)
from gatescope_kernels.ops.gated_linear_attention.fused_tiles import Tiles, levels, tiles


def attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H T K"],
    v: Float[Tensor, "B H T V"],
    g: Float[Tensor, "B H T W"],
    beta: Float[Tensor, "B H T"] | None,
    state: Float[Tensor, "B H K V"],
    scale: float,
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H K V"]]:
    """Outputs in q's dtype and the final state in float32. Arguments keep the dtypes callers gave them.

    What is not contiguous is copied once: the passes read every argument several times.
    """
    return _Attend.apply(scale, *(x if x is None else x.contiguous() for x in (q, k, v, g, beta, state)))


class _Attend(torch.autograd.Function):
    """Saved: the arguments, the states between the chunks and, for the delta rule, u. The rest is made again."""

    @staticmethod
    def forward(
        ctx: Any, scale: float, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor | None, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        tile = tiles(q, v, g, beta)
        made = _Chunks.of(tile, scale, q, k, g, beta)
        before = q.new_empty(tile.programs, tile.KP, tile.V)
        out, final = torch.empty_like(v), torch.empty_like(state, dtype=torch.float32)
        carry = tile.constants(KP=tile.KP, BV=tile.carried)
        arguments: tuple[Any, ...]
        if beta is None:
            u, arguments = v, (v, made.k_until, made.total, state, before, final)
            launch(gla_states, tile.carry_grid, *arguments, *tile.sizes, **carry)
        else:
            u = torch.empty_like(v)
            ends = (made.k_since, made.k_until, made.total)
            arguments = (v, beta, made.inverse, *ends, state, before, u, final)
            launch(delta_states, tile.carry_grid, *arguments, *tile.sizes, **carry)
        grid, arguments = (tile.programs, -(-tile.V // tile.values)), (made.pairs, u, made.q_since, before, out)
        read = tile.constants(KP=tile.KP, BK=tile.reads, BV=tile.values)
        launch(gla_outputs, grid, *arguments, tile.T, tile.V, tile.chunks, **read)
        ctx.scale = scale
        ctx.save_for_backward(q, k, v, g, beta, state, before, None if beta is None else u)
        return out, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, dfinal: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, g, beta, state, before, u = ctx.saved_tensors
        dout, dfinal, u = dout.contiguous(), dfinal.contiguous(), v if u is None else u
        tile = tiles(q, v, g, beta)
        made = _Chunks.of(tile, ctx.scale, q, k, g, beta)
        dq, dk, dv, dstate, dstates, dpairs = map(torch.empty_like, (q, k, v, state, before, made.pairs))
        dg = torch.empty_like(g) if tile.WP > 1 else g.new_empty(tile.parts, *g.shape, dtype=torch.float32)

        carry = tile.constants(KP=tile.KP, BV=tile.carried)
        inside = tile.constants(BV=tile.values)
        rest = tile.constants(KP=tile.KP, WP=tile.WP, BK=tile.gradients, BV=tile.values, LEVELS=levels(tile.C))
        grid, numbers = (tile.programs, tile.parts), (ctx.scale, q.shape[:3].numel(), *tile.sizes)
        launch(gla_pairs_backward, (tile.programs,), dout, u, dpairs, tile.T, tile.V, tile.chunks, **inside)
        arguments: tuple[Any, ...]
        if beta is None:
            arguments = (dout, dfinal, made.pairs, made.q_since, made.k_until, made.total, dv, dstates, dstate)
            launch(gla_states_backward, tile.carry_grid, *arguments, *tile.sizes, **carry)
            arguments = (q, k, made.sums, dout, u, dpairs, before, dstates, dq, dk, dg)
            launch(gla_gradients, grid, *arguments, *numbers, **rest)
            dbeta = None
        else:
            dmissing, dknown = torch.empty_like(v), torch.empty_like(dpairs)
            shares = beta.new_empty(1 + tile.parts, *beta.shape, dtype=torch.float32)
            ends = (made.q_since, made.k_since, made.k_until, made.total)
            arguments = (dout, dfinal, made.pairs, beta, made.inverse, *ends, dmissing, dv, dstates, dstate)
            launch(delta_states_backward, tile.carry_grid, *arguments, *tile.sizes, **carry)
            arguments = (dmissing, u, v, beta, made.known, dknown, shares)
            launch(delta_pairs_backward, (tile.programs,), *arguments, tile.T, tile.V, tile.chunks, **inside)
            arguments = (q, k, made.sums, beta, dout, u, dmissing, dpairs, dknown, before, dstates, dq, dk, dg)
            launch(delta_gradients, grid, *arguments, shares[1:], *numbers, **rest)
            dbeta = shares.sum(0).to(beta.dtype)
        return None, dq, dk, dv, dg if tile.WP > 1 else dg.sum(0).to(g.dtype), dbeta, dstate


@dataclass(frozen=True, slots=True)
class _Chunks:
    """What both passes need of the chunks by themselves, whatever the state is; names as in the kernels."""

    sums: Float[Tensor, "N nodes WP"]
    pairs: Float[Tensor, "N C C"]
    q_since: Float[Tensor, "N C KP"]
    k_until: Float[Tensor, "N C KP"]
    total: Float[Tensor, "N KP"]
    k_since: Float[Tensor, "N C KP"] | None = None
    known: Float[Tensor, "N C C"] | None = None
    inverse: Float[Tensor, "N C C"] | None = None

    @staticmethod
    def of(tile: Tiles, scale: float, q: Tensor, k: Tensor, g: Tensor, beta: Tensor | None) -> _Chunks:
        N, C, KP, WP, chunks = tile.programs, tile.C, tile.KP, tile.WP, tile.chunks
        wide = torch.float32
        sums, BW = q.new_empty(N, 2 * C, WP, dtype=wide), min(WP, tile.pairs)
        sizes = {"W": g.shape[-1], "WP": WP, "BW": BW, "C": C, "LEVELS": levels(C)}
        launch(gla_sums, (N, WP // BW), g, sums, tile.T, chunks, **sizes, **tile.options)

        pairs, total = q.new_empty(N, C, C), q.new_empty(N, KP, dtype=wide)
        q_since, k_until = q.new_empty(N, C, KP), q.new_empty(N, C, KP)
        numbers = (tile.T, tile.K, chunks)
        constants = tile.constants(KP=KP, WP=WP, BK=tile.pairs, LEVELS=levels(C))
        launch(gla_pairs, (N,), q, k, sums, pairs, q_since, k_until, total, scale, *numbers, **constants)
        if beta is None:
            return _Chunks(sums, pairs, q_since, k_until, total)

        known, k_since, inverse = q.new_empty(N, C, C, dtype=wide), torch.empty_like(q_since), torch.empty_like(pairs)
        launch(gla_pairs, (N,), k, k, sums, known, k_since, None, None, 1.0, *numbers, **constants)
        BI = max(16, C // 2)
        blocks = {"C": C, "BI": BI, "LEVELS": levels(BI), "warps": 2, "stages": 1}
        launch(delta_inverse, (N,), known, beta, inverse, tile.T, chunks, PRECISION=precision(known), **blocks)
        return _Chunks(sums, pairs, q_since, k_until, total, k_since, known, inverse)
