"""Linear attention whose state forgets (GLA) and, as a delta rule, corrects itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from gatescope_kernels import gated_linear_attention
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from gatescope.errors import Refusal
from gatescope.gates import GateSpec
from gatescope.layers.convolution import ShortConvolution
from gatescope.layers.decay import Decay, DecayKind
from gatescope.layers.gate import Gate, score_shape
from gatescope.layers.init import linear, spawn
from gatescope.taps import LinearAttentionCall, tap

Update = Literal["add", "delta"]
Directions = Literal["unit", "plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttentionSpec:
    """The shape of a linear attention layer and its variant.

    n_heads      H heads
    key_dim      K channels of a query or key, the rows of a head's state
    value_dim    V channels of a value, its columns
    decay        "none": nothing is forgotten; "fixed": one learned score a head for all tokens; "head", "channel": a
                 score made from the token, one a head or one a row of the state (GLA)
    half_life    tokens that a decay starts with; 16 is a score of 0.958, GLA's
    update       "add": S + k v^T. "delta": S + beta k (v - S^T k)^T, beta = sigmoid(X W_beta): a key's old value goes
                 before the new one comes (gated DeltaNet)
    directions   "unit": q and k of length 1; "plain": as projected, scores divided by sqrt(K)
    convolution  width of a causal convolution over the projections q, k and v; None: none
    gate         an output gate (position "sdpa"): RMSNorm(o) times its score, head by head; None: o as it is

    Raises Refusal for values outside these lists, and for the delta rule on keys that are not of length 1, under which
    a state may grow without bound.
    """

    n_heads: int
    key_dim: int
    value_dim: int
    decay: DecayKind = "channel"
    half_life: float = 16.0
    update: Update = "add"
    directions: Directions = "unit"
    convolution: int | None = None
    gate: GateSpec | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field in ("n_heads", "key_dim", "value_dim"):
            if getattr(self, field) < 1:
                raise Refusal(name, f"{field} >= 1", f"{getattr(self, field)}", "pass a positive size")
        for field, allowed in (("decay", DecayKind), ("update", Update), ("directions", Directions)):
            if getattr(self, field) not in get_args(allowed):
                wanted = f"{field} in {get_args(allowed)}"
                raise Refusal(name, wanted, repr(getattr(self, field)), "choose one of them")
        if not (math.isfinite(self.half_life) and self.half_life > 0):
            raise Refusal(name, "a finite half_life > 0 tokens", f"{self.half_life}", "for no decay use decay='none'")
        if self.update == "delta" and self.directions != "unit":
            raise Refusal(name, "keys of length 1 under the delta rule", "'plain'", "use directions='unit'")
        if self.convolution is not None and self.convolution < 1:
            raise Refusal(name, "convolution >= 1 or None", f"{self.convolution}", "the usual width is 4")
        if self.gate is not None and self.gate.position != "sdpa":
            got = f"position {self.gate.position!r}"
            raise Refusal(name, "an output gate at position 'sdpa'", got, "the decay is this layer's gate on its state")

    @property
    def tap_sites(self) -> frozenset[str]:
        """The sites that a layer of this spec shows."""
        gated = self.gate is not None or self.decay != "none"
        return frozenset({"linear_attention", "gate"} if gated else {"linear_attention"})


@dataclass(frozen=True, slots=True)
class LinearState:
    """What decoding carries from token to token, whatever their number.

    memory  S of each head                                              [B H K V]
    recent  the projections that the convolution still reads, latest last  [B P C], P = width - 1, or 0
    """

    memory: Float[Tensor, "B H K V"]
    recent: Float[Tensor, "B P C"]


def masked(
    call: LinearAttentionCall, key_mask: Bool[Tensor, "B T"] | None, documents: Int[Tensor, "B T"] | None
) -> LinearAttentionCall:
    """The call on which padding leaves no trace, and whose state is emptied where a document begins."""
    if key_mask is not None:
        hidden = ~key_mask[:, None, :, None]
        call = replace(call, k=call.k.masked_fill(hidden, 0), g=call.g.masked_fill(hidden, 0))
    if documents is not None:
        begins = functional.pad(documents[:, 1:] != documents[:, :-1], (1, 0))
        call = replace(call, g=call.g.masked_fill(begins[:, None, :, None], -torch.inf))
    return call


class LinearAttention(nn.Module):
    """Linear attention of a `LinearAttentionSpec` on a pre-normed input.

        q, k, v = conv(X W_Q), conv(X W_K), conv(X W_V);    g = decay(X);    beta = sigmoid(X W_beta)
        o  = gated_linear_attention(q, k, v, g, beta);      out = concat_heads(o) W_O

    The call passes the tap "linear_attention", the decay scores pass "gate" at position "decay". `forward` reads a
    whole sequence in chunks, `step` one token at a time from a state of fixed size; they compute the same.

    Source: Yang et al. 2023, Gated Linear Attention Transformers; Yang et al. 2024, Gated Delta Networks.
    """

    def __init__(
        self,
        spec: LinearAttentionSpec,
        d_model: int,
        *,
        layer: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.layer = spec, layer
        H, K, V = spec.n_heads, spec.key_dim, spec.value_dim
        own = spawn(generator, layer or 0)
        self.q_proj, self.k_proj = linear(d_model, H * K, generator), linear(d_model, H * K, generator)
        self.v_proj, self.o_proj = linear(d_model, H * V, generator), linear(H * V, d_model, generator)
        self.convolution = None
        if spec.convolution is not None:
            self.convolution = ShortConvolution(spec.convolution, H * (2 * K + V), generator=own)
        self.decay = None
        if spec.decay != "none":
            self.decay = Decay(spec.decay, d_model, H, K, spec.half_life, layer=layer, generator=own)
        self.beta_proj = linear(d_model, H, own) if spec.update == "delta" else None
        self.gate = self.norm = None
        if spec.gate is not None:
            shape = score_shape(spec.gate, n_heads=H, n_kv_heads=H, head_dim=V, d_model=d_model)
            self.gate = Gate(spec.gate, shape, d_model, layer=layer, generator=own)
            self.norm = nn.RMSNorm(V, eps=1e-5)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        key_mask: Bool[Tensor, "B T"] | None = None,
        documents: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Read ``x``. Tokens where ``key_mask`` is False leave the state as it is; it is emptied where one of
        ``documents`` begins."""
        qkv = self._project(x)
        if self.convolution is not None:
            qkv = self.convolution(qkv, key_mask, documents)
        call = tap("linear_attention", masked(self._call(x, qkv), key_mask, documents), layer=self.layer)
        return self._out(x, gated_linear_attention(**call.arguments())[0])

    def start(self, batch: int) -> LinearState:
        """The state before the first token."""
        spec, weight = self.spec, self.q_proj.weight
        channels = spec.n_heads * (2 * spec.key_dim + spec.value_dim)
        recent = weight.new_zeros(batch, (spec.convolution or 1) - 1, channels)
        return LinearState(weight.new_zeros(batch, spec.n_heads, spec.key_dim, spec.value_dim), recent)

    def step(self, x: Float[Tensor, "B D"], state: LinearState) -> tuple[Float[Tensor, "B D"], LinearState]:
        """Read one more token: its output, and the state after it."""
        x = x[:, None]
        qkv, recent = self._project(x), state.recent
        if self.convolution is not None:
            qkv, recent = self.convolution.step(qkv, recent)
        call = tap("linear_attention", self._call(x, qkv), layer=self.layer)
        out, memory = gated_linear_attention(**call.arguments(), initial_state=state.memory)
        return self._out(x, out)[:, 0], LinearState(memory, recent)

    def _project(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T C"]:
        return torch.cat([project(x) for project in (self.q_proj, self.k_proj, self.v_proj)], -1)

    def _call(self, x: Float[Tensor, "B T D"], qkv: Float[Tensor, "B T C"]) -> LinearAttentionCall:
        H, K = self.spec.n_heads, self.spec.key_dim
        sizes = [H * K, H * K, H * self.spec.value_dim]
        q, k, v = (part.unflatten(-1, (H, -1)).transpose(1, 2) for part in qkv.split(sizes, -1))
        unit = self.spec.directions == "unit"
        return LinearAttentionCall(
            q=functional.normalize(q, dim=-1) if unit else q,
            k=functional.normalize(k, dim=-1) if unit else k,
            v=v,
            g=q.new_zeros(*q.shape[:3], 1) if self.decay is None else self.decay(x),
            beta=None if self.beta_proj is None else self.beta_proj(x).sigmoid().transpose(1, 2),
            scale=1.0 if unit else self.spec.key_dim**-0.5,
        )

    def _out(self, x: Float[Tensor, "B T D"], out: Float[Tensor, "B H T V"]) -> Float[Tensor, "B T D"]:
        if self.gate is not None and self.norm is not None:
            out = self.gate.combine(self.norm(out), self.gate(x))
        return self.o_proj(out.transpose(1, 2).flatten(2))


__all__ = ["Directions", "LinearAttention", "LinearAttentionSpec", "LinearState", "Update", "masked"]
