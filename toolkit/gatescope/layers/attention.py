"""Causal self-attention with a gate at any of the five positions of Qiu et al. 2025."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from gatescope_kernels import Visibility
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gatescope.errors import Refusal
from gatescope.gates import GateSpec
from gatescope.layers.convolution import ShortConvolution
from gatescope.layers.gate import Gate, score_shape
from gatescope.layers.init import linear, spawn
from gatescope.layers.rope import rotate
from gatescope.taps import AttentionCall, attend

Sink = Literal["learned", "off_by_one"]


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """The shape of an attention layer and its variant.

    n_heads      H query heads; n_kv_heads G key-value heads, H a multiple of G
    head_dim     K = V channels of a head, even (RoPE turns pairs)
    rope_theta   base of the RoPE frequencies; None: no positions but those a convolution sees
    gate         where a gate acts, or None
    sink         None: softmax. "learned": one logit per head in the denominator (gpt-oss), initialised 0.
                 "off_by_one": exp(s) / (1 + sum exp(s)), a sink logit held at 0
    visibility   causal, window, sink tokens
    convolution  width of a causal convolution over the projections q, k and v, before gates; None: none

    Raises Refusal for values outside these lists.
    """

    n_heads: int
    n_kv_heads: int
    head_dim: int
    rope_theta: float | None = 10_000.0
    gate: GateSpec | None = None
    sink: Sink | None = None
    visibility: Visibility = field(default_factory=Visibility)
    convolution: int | None = None

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
        if self.rope_theta is not None and not (math.isfinite(self.rope_theta) and self.rope_theta > 1):
            raise Refusal("AttentionSpec", "a finite rope_theta > 1", f"{self.rope_theta}", "the usual value is 10000")
        if self.sink is not None and self.sink not in get_args(Sink):
            raise Refusal("AttentionSpec", f"sink None or in {get_args(Sink)}", repr(self.sink), "choose one of them")
        if self.convolution is not None and self.convolution < 1:
            raise Refusal("AttentionSpec", "convolution >= 1 or None", f"{self.convolution}", "the usual width is 4")

    @property
    def tap_sites(self) -> frozenset[str]:
        """The sites that a layer of this spec shows."""
        return frozenset({"attention"} if self.gate is None else {"attention", "gate"})


class Attention(nn.Module):
    """Self-attention of an `AttentionSpec` on a pre-normed input.

        q, k, v = X W_Q, X W_K, X W_V          gates "query", "key", "value" act here, before RoPE
        Y = softmax(rope(q) rope(k)^T / sqrt(K) + M) v          gate "sdpa" acts on Y, head by head
        out = concat_heads(Y) W_O              gate "output" acts here

    Gates come before RoPE: Qiu et al. 2025 place G4, G3 and G2 after the query, key and value projections
    (section 2.2). A multiplied head-wise score gives the same on either side of RoPE, an element-wise one does not:
    RoPE mixes channel pairs. Code for G2 to G5 was not released, so this is a reconstruction.
    """

    def __init__(
        self,
        spec: AttentionSpec,
        d_model: int,
        *,
        layer: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.layer = spec, layer
        width, kv_width = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
        self.q_proj = linear(d_model, width, generator)
        self.k_proj = linear(d_model, kv_width, generator)
        self.v_proj = linear(d_model, kv_width, generator)
        self.o_proj = linear(width, d_model, generator)
        self.gate = None
        if spec.gate is not None:
            shape = score_shape(
                spec.gate,
                n_heads=spec.n_heads,
                n_kv_heads=spec.n_kv_heads,
                head_dim=spec.head_dim,
                d_model=d_model,
            )
            self.gate = Gate(spec.gate, shape, d_model, layer=layer, generator=spawn(generator, layer or 0))
        self.sink = nn.Parameter(torch.zeros(spec.n_heads)) if spec.sink == "learned" else None
        self.convolution = None
        if spec.convolution is not None:
            own = spawn(generator, layer or 0)
            self.convolution = ShortConvolution(spec.convolution, width + 2 * kv_width, generator=own)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        key_mask: Bool[Tensor, "B T"] | None = None,
        documents: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Attend over ``x``; keys where ``key_mask`` is False are not read, nor are those of other ``documents``.

        Positions run on through a packed sequence: RoPE makes logits depend on distances alone.
        """
        spec = self.spec
        scores = None if self.gate is None else self.gate(x)
        qkv = self._project(x)
        if self.convolution is not None:
            qkv = self.convolution(qkv, key_mask, documents)
        q, k, v = self._heads(qkv)
        q, k, v = self._gated("query", q, scores), self._gated("key", k, scores), self._gated("value", v, scores)
        epilogue = spec.gate if spec.gate is not None and spec.gate.position == "sdpa" else None
        call = AttentionCall(
            q=q if spec.rope_theta is None else rotate(q, spec.rope_theta),
            k=k if spec.rope_theta is None else rotate(k, spec.rope_theta),
            v=v,
            gate=None if epilogue is None or scores is None else scores.expand(-1, spec.n_heads, -1, -1),
            combine="multiply" if epilogue is None else epilogue.combine,
            sink=0.0 if spec.sink == "off_by_one" else self.sink,
            visibility=spec.visibility,
            key_mask=key_mask,
            documents=documents,
        )
        out = self.o_proj(attend(call, layer=self.layer).transpose(1, 2).flatten(2))
        return self._gated("output", out[:, None], scores)[:, 0]

    def _project(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T E"]:
        return torch.cat([project(x) for project in (self.q_proj, self.k_proj, self.v_proj)], -1)

    def _heads(self, qkv: Float[Tensor, "B T E"]) -> tuple[Tensor, Tensor, Tensor]:
        """q [B H T K], k and v [B G T K]."""
        heads = (self.spec.n_heads, self.spec.n_kv_heads, self.spec.n_kv_heads)
        parts = qkv.split([n * self.spec.head_dim for n in heads], -1)
        q, k, v = (part.unflatten(-1, (-1, self.spec.head_dim)).transpose(1, 2) for part in parts)
        return q, k, v

    def _gated(
        self, position: str, y: Float[Tensor, "B M T C"], scores: Float[Tensor, "B N T W"] | None
    ) -> Float[Tensor, "B M T C"]:
        """``y`` through the gate if the gate sits at ``position``."""
        if self.gate is None or scores is None or self.gate.spec.position != position:
            return y
        return self.gate.combine(y, scores)
