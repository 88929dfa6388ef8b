"""Gated attention with statistics: what callers see. Validates, then dispatches to one implementation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

Impl = Literal["auto", "reference", "blockwise"]
Combine = Literal["multiply", "add"]

#: Statistics that can be asked for. ``lse`` and the number of visible keys always come.
STATISTICS = ("entropy", "max_logit", "mass", "key_mass")


@dataclass(frozen=True, slots=True)
class Visibility:
    """Which keys a query may read.

    Query i of T stands at absolute position p = i + S - T (the last query sees the last key, as in decoding with a
    cache). Key j is visible when every rule that is set holds:

        causal:  j <= p
        window:  p - j < window          or j < sink_tokens   (StreamingLLM keeps the first keys)

    A window without ``causal`` is two-sided: |p - j| < window.
    """

    causal: bool = True
    window: int | None = None
    sink_tokens: int = 0


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
    """TO BE WRITTEN (contract)."""
    raise NotImplementedError


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
    """TO BE WRITTEN (contract): as gated_attention, and the statistics named in ``stats``."""
    raise NotImplementedError
