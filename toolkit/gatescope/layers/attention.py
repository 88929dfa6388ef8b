"""Causal self-attention with a gate at any of the five positions of Qiu et al. 2025."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from gatescope_kernels import Visibility

from gatescope.errors import Refusal
from gatescope.gates import GateSpec

Sink = Literal["learned", "off_by_one"]


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """The shape of an attention layer and its variant.

    n_heads      H query heads; n_kv_heads G key-value heads, H a multiple of G
    head_dim     K = V channels of a head, even (RoPE turns pairs)
    rope_theta   base of the RoPE frequencies
    gate         where a gate acts, or None
    sink         None: softmax. "learned": one logit per head in the denominator (gpt-oss), initialised 0.
                 "off_by_one": exp(s) / (1 + sum exp(s)), a sink logit held at 0
    visibility   causal, window, sink tokens

    Raises Refusal for values outside these lists.
    """

    n_heads: int
    n_kv_heads: int
    head_dim: int
    rope_theta: float = 10_000.0
    gate: GateSpec | None = None
    sink: Sink | None = None
    visibility: Visibility = Visibility()

    def __post_init__(self) -> None:
        if self.n_heads < 1 or self.n_kv_heads < 1 or self.n_heads % self.n_kv_heads:
            raise Refusal(
                "AttentionSpec",
                "n_heads a positive multiple of n_kv_heads",
                f"n_heads={self.n_heads}, n_kv_heads={self.n_kv_heads}",
                "use n_kv_heads = n_heads for plain multi-head attention",
            )
        if self.head_dim < 2 or self.head_dim % 2:
            raise Refusal(
                "AttentionSpec", "an even head_dim >= 2 (RoPE turns channel pairs)", f"{self.head_dim}", "round it up"
            )
        if not (math.isfinite(self.rope_theta) and self.rope_theta > 1):
            raise Refusal("AttentionSpec", "a finite rope_theta > 1", f"{self.rope_theta}", "the usual value is 10000")
        if self.sink is not None and self.sink not in get_args(Sink):
            raise Refusal("AttentionSpec", f"sink None or in {get_args(Sink)}", repr(self.sink), "choose one of them")
