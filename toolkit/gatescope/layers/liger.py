"""Liger: the weights of a softmax layer read as a gated recurrence, beside a window of what they were trained for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from gatescope_kernels import Visibility, gated_linear_attention
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from gatescope.errors import Refusal
from gatescope.layers.attention import Attention, AttentionSpec
from gatescope.layers.decay import DecayKind, log_decay
from gatescope.layers.linear_attention import masked
from gatescope.layers.rope import rope_row, rotate, turned
from gatescope.taps import AttentionCall, LinearAttentionCall, attend, tap

Denominator = Literal["none", "sum"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LigerSpec:
    """How the weights of a trained softmax layer are read.

    attention    the layer they were trained in: plain causal softmax, with any heads, RoPE and convolution
    decay        what the state keeps of itself, log g = logsigmoid(.) / 16 of
                 "channel": the key itself, a score a channel (the authors' code: its pooling changes nothing);
                 "head": the mean of the key's channels, a score a head; "fixed": 0, a score of 0.958 for every token;
                 "none": nothing is forgotten
    mix          share of the recurrent half in the output, 0 to 1; the rest is the window's. 0.5 is Liger Attention.
                 The half whose share is 0 is left out
    window       keys that a row of the softmax half sees, its own among them; None: all, by a cache that grows. With
                 mix 0 that is the trained layer
    denominator  "none": the recurrent half is a sum (Liger); "sum": a mean, divided by the sum of its own weights

    Raises Refusal for values outside these lists, and for a trained layer with a gate, a sink or a window.

    Source: Lan et al. 2025, Liger, eq. 6 to 10, and the authors' code, which has the 16 that the paper leaves out, a
    scale of 1 and no denominator. "sum" is not theirs.
    """

    attention: AttentionSpec
    decay: DecayKind = "channel"
    mix: float = 0.5
    window: int | None = 64
    denominator: Denominator = "none"

    def __post_init__(self) -> None:
        plain, name = self.attention, type(self).__name__
        if plain.gate is not None or plain.sink is not None or plain.visibility != Visibility():
            got = f"gate={plain.gate}, sink={plain.sink!r}, visibility={plain.visibility}"
            raise Refusal(name, "plain causal softmax attention", got, "convert a layer without gate, sink and window")
        for field, allowed in (("decay", DecayKind), ("denominator", Denominator)):
            if getattr(self, field) not in get_args(allowed):
                wanted = f"{field} in {get_args(allowed)}"
                raise Refusal(name, wanted, repr(getattr(self, field)), "choose one of them")
        if not (math.isfinite(self.mix) and 0 <= self.mix <= 1):
            raise Refusal(name, "mix from 0 to 1", f"{self.mix}", "0 is the window alone, 1 the recurrence alone")
        if self.window is not None and self.window < 1:
            raise Refusal(name, "window >= 1 or None", f"{self.window}", "1 sees the token itself, None all before it")

    @property
    def tap_sites(self) -> frozenset[str]:
        """The sites that a layer of this spec shows."""
        sites = {"attention"} if self.mix < 1 else set()
        if self.mix > 0:
            sites |= {"linear_attention"} if self.decay == "none" else {"linear_attention", "gate"}
        return frozenset(sites)


@dataclass(frozen=True, slots=True)
class LigerState:
    """What decoding carries from token to token. Only with ``window=None`` does it grow.

    memory    S of each head; with a denominator the sum of its keys as one more column      [B H K V]
    keys      turned keys that the window still sees, P = min(tokens, window - 1), latest last  [B G P K]
    values    theirs                                                                         [B G P K]
    recent    the projections that the convolution still reads                               [B W E]
    position  of the next token
    """

    memory: Float[Tensor, "B H K V"]
    keys: Float[Tensor, "B G P K"]
    values: Float[Tensor, "B G P K"]
    recent: Float[Tensor, "B W E"]
    position: int = 0


class LigerAttention(Attention):
    """The parameters of `Attention`, and no others, read as a `LigerSpec` says.

        q, k, v = conv(X W_Q), conv(X W_K), conv(X W_V)                 as in the trained layer
        g_t = logsigmoid(pool(k_t)) / 16;    phi = softmax over the channels of a head
        S_t = Diag(exp g_t) S_{t-1} + phi(k_t) v_t^T;    r_t = S_t^T phi(q_t)
        o = mix r + (1 - mix) softmax(rope(q) rope(k)^T / sqrt(K) + window) v;    out = concat_heads(o) W_O

    Keys are pooled, and phi taken, before RoPE. Query heads of a group share its keys, values and gate. The halves pass
    the taps "linear_attention" and "attention", the scores exp(g) "gate" at position "decay". `forward` reads a whole
    sequence, `step` one token from a state; they compute the same.

    Source: as `LigerSpec`.
    """

    def __init__(
        self,
        spec: LigerSpec,
        d_model: int,
        *,
        layer: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(spec.attention, d_model, layer=layer, generator=generator)
        self.liger = spec

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        key_mask: Bool[Tensor, "B T"] | None = None,
        documents: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Read ``x``; ``key_mask`` and ``documents`` as in `Attention`."""
        spec, theta = self.liger, self.spec.rope_theta
        qkv = self._project(x)
        if self.convolution is not None:
            qkv = self.convolution(qkv, key_mask, documents)
        q, k, v = self._heads(qkv)
        recurrent = softmax = None
        if spec.mix > 0:
            call = tap("linear_attention", masked(self._call(q, k, v), key_mask, documents), layer=self.layer)
            recurrent, _ = self._recur(call, None)
        if spec.mix < 1:
            seen = AttentionCall(
                q=q if theta is None else rotate(q, theta),
                k=k if theta is None else rotate(k, theta),
                v=v,
                visibility=Visibility(window=spec.window),
                key_mask=key_mask,
                documents=documents,
            )
            softmax = attend(seen, layer=self.layer)
        return self._out(recurrent, softmax)

    def start(self, batch: int) -> LigerState:
        """The state before the first token."""
        plain, weight = self.spec, self.q_proj.weight
        recurrent, K = self.liger.mix > 0, plain.head_dim
        columns = K + (self.liger.denominator == "sum")
        memory = weight.new_zeros(batch, plain.n_heads if recurrent else 0, K, columns)
        none = weight.new_zeros(batch, plain.n_kv_heads, 0, K)
        width = (plain.n_heads + 2 * plain.n_kv_heads) * K
        return LigerState(memory, none, none, weight.new_zeros(batch, (plain.convolution or 1) - 1, width))

    def step(self, x: Float[Tensor, "B D"], state: LigerState) -> tuple[Float[Tensor, "B D"], LigerState]:
        """Read one more token: its output, and the state after it."""
        spec, recent = self.liger, state.recent
        qkv = self._project(x[:, None])
        if self.convolution is not None:
            qkv, recent = self.convolution.step(qkv, recent)
        q, k, v = self._heads(qkv)
        memory, keys, values = state.memory, state.keys, state.values
        recurrent = softmax = None
        if spec.mix > 0:
            call = tap("linear_attention", self._call(q, k, v), layer=self.layer)
            recurrent, memory = self._recur(call, memory)
        if spec.mix < 1:
            if self.spec.rope_theta is not None:
                row = rope_row(state.position, self.spec.head_dim, self.spec.rope_theta, q.device, q.dtype)
                q, k = turned(q, *row), turned(k, *row)
            keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)
            softmax = attend(AttentionCall(q=q, k=keys, v=values), layer=self.layer)
            if spec.window is not None and keys.shape[2] >= spec.window:
                keys, values = keys[:, :, 1:], values[:, :, 1:]
        after = LigerState(memory, keys, values, recent, state.position + 1)
        return self._out(recurrent, softmax)[:, 0], after

    def _call(
        self, q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G T K"], v: Float[Tensor, "B G T K"]
    ) -> LinearAttentionCall:
        group = self.spec.n_heads // self.spec.n_kv_heads
        k_, v, g = (part.repeat_interleave(group, 1) for part in (k.softmax(-1), v, self._log_decay(k)))
        return LinearAttentionCall(q=q.softmax(-1), k=k_, v=v, g=g, scale=1.0)

    def _log_decay(self, k: Float[Tensor, "B G T K"]) -> Float[Tensor, "B G T W"]:
        pooled = k if self.liger.decay == "channel" else k.mean(-1, keepdim=True)
        if self.liger.decay == "none":
            return torch.zeros_like(pooled)
        return log_decay(torch.zeros_like(pooled) if self.liger.decay == "fixed" else pooled, self.layer)

    def _recur(
        self, call: LinearAttentionCall, memory: Float[Tensor, "B H K V"] | None
    ) -> tuple[Float[Tensor, "B H T K"], Float[Tensor, "B H K V"]]:
        if self.liger.denominator == "none":
            return gated_linear_attention(**call.arguments(), initial_state=memory)
        call = replace(call, v=functional.pad(call.v, (0, 1), value=1.0))  # values of 1 sum the weights
        out, memory = gated_linear_attention(**call.arguments(), initial_state=memory)
        return out[..., :-1] / out[..., -1:].clamp_min(torch.finfo(out.dtype).tiny), memory

    def _out(
        self, recurrent: Float[Tensor, "B H T K"] | None, softmax: Float[Tensor, "B H T K"] | None
    ) -> Float[Tensor, "B T D"]:
        if recurrent is None or softmax is None:
            mixed = softmax if recurrent is None else recurrent
        else:
            mixed = self.liger.mix * recurrent + (1 - self.liger.mix) * softmax
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


__all__ = ["Denominator", "LigerAttention", "LigerSpec", "LigerState"]
