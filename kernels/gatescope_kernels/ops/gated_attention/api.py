"""Gated attention with statistics: what callers see. Validates, then dispatches to one implementation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gatescope_kernels.ops.gated_attention import blockwise, reference
from gatescope_kernels.ops.gated_attention.problem import Problem, Visibility

Impl = Literal["auto", "reference", "blockwise"]
Combine = Literal["multiply", "add"]

#: Statistics that can be asked for. ``lse`` and the number of visible keys always come.
STATISTICS = ("entropy", "max_logit", "mass", "key_mass")


@dataclass(frozen=True, slots=True)
class AttentionStats:
    """Per-row and per-key statistics of softmax attention, never the matrix. Entries that were not asked for are None.

    lse        log of the softmax denominator, learned sink included, nats                 [B H T]
    visible    n_i: keys that row i sees (a learned sink is not counted here)              [B T]
    entropy    H_i = -sum_j A_ij log A_ij, learned sink included as one more outcome, nats [B H T]
    max_logit  largest visible scale * q_i.k_j (sink excluded); -inf on an empty row       [B H T]
    mass       A_is for each chosen key s in ``keys``                                      [B H T N]
    key_mass   sum_i A_ij: attention a key receives                                        [B H S]
    sink_mass  mass on the learned sink, 1 - sum_j A_ij; None without a sink               [B H T]

    A row that sees no key (and no sink) has lse = -inf, entropy 0, mass 0 and output 0.
    """

    lse: Float[Tensor, "B H T"]
    visible: Int[Tensor, "B T"]
    entropy: Float[Tensor, "B H T"] | None = None
    max_logit: Float[Tensor, "B H T"] | None = None
    mass: Float[Tensor, "B H T N"] | None = None
    keys: tuple[int, ...] = ()
    key_mass: Float[Tensor, "B H S"] | None = None
    sink_mass: Float[Tensor, "B H T"] | None = None


def gated_attention(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S V"],
    *,
    gate: Float[Tensor, "B H T W"] | None = None,
    combine: Combine = "multiply",
    sink: Float[Tensor, " H"] | float | None = None,
    visibility: Visibility = Visibility(),
    key_mask: Bool[Tensor, "B S"] | None = None,
    scale: float | None = None,
    impl: Impl = "auto",
) -> Float[Tensor, "B H T V"]:
    """Y = softmax(scale Q K^T) V, gated; see gated_attention_with_stats."""
    out, _ = _run(q, k, v, gate, combine, sink, visibility, key_mask, scale, frozenset(), (), impl)
    return out


def gated_attention_with_stats(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S V"],
    *,
    gate: Float[Tensor, "B H T W"] | None = None,
    combine: Combine = "multiply",
    sink: Float[Tensor, " H"] | float | None = None,
    visibility: Visibility = Visibility(),
    key_mask: Bool[Tensor, "B S"] | None = None,
    scale: float | None = None,
    stats: tuple[str, ...] = STATISTICS,
    keys: tuple[int, ...] = (0,),
    impl: Impl = "auto",
) -> tuple[Float[Tensor, "B H T V"], AttentionStats]:
    """As gated_attention, and the statistics named in ``stats``."""
    out, found = _run(q, k, v, gate, combine, sink, visibility, key_mask, scale, frozenset(stats), keys, impl)
    return out, found


_IMPLEMENTATIONS = {"reference": reference.attend, "blockwise": blockwise.attend, "auto": blockwise.attend}


def _run(q, k, v, gate, combine, sink, visibility, key_mask, scale, stats, keys, impl):
    B, H, T, K = q.shape
    _, G, S, _ = k.shape
    if isinstance(sink, int | float):
        sink = torch.full((H,), float(sink), dtype=q.dtype, device=q.device)
    problem = Problem(
        B,
        H,
        G,
        T,
        S,
        K**-0.5 if scale is None else scale,
        visibility,
        key_mask,
        stats,
        tuple(keys),
        torch.float64 if q.dtype == torch.float64 else torch.float32,
        q.device,
    )
    out, found = _IMPLEMENTATIONS[impl](q, k, v, sink, problem)
    out = out.to(q.dtype)
    if gate is not None:
        out = out * gate if combine == "multiply" else out + gate
    keep = stats | {"lse"} | ({"sink_mass"} if sink is not None else set())
    found = {name: value for name, value in found.items() if name in keep}
    keys = tuple(keys) if "mass" in stats else ()
    return out, AttentionStats(visible=problem.count_visible(), keys=keys, **found)
