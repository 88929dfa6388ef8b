"""A policy that is learned: each layer reads its own input and says which keys will be needed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from gatescope_kernels import gated_attention
from jaxtyping import Float
from torch import Tensor, nn

from gatescope.errors import Refusal
from gatescope.layers.init import linear
from gatescope.policies.base import Cache, Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionGateSpec:
    """The shape of the gates of a model.

    n_layers    blocks that have one
    d_model     D channels of the residual stream
    n_kv_heads  G flags a token: what is cached is a key of a key-value head
    width       channels of the reduced attention
    recent      share of the budget that always goes to the latest keys

    Raises Refusal for sizes below 1 and ``recent`` outside [0, 1].
    """

    n_layers: int
    d_model: int
    n_kv_heads: int
    width: int = 16
    recent: float = 0.5

    def __post_init__(self) -> None:
        if min(self.n_layers, self.d_model, self.n_kv_heads, self.width) < 1:
            raise Refusal("AttentionGateSpec", "sizes of 1 or more", str(self), "copy the model's own")
        if not 0 <= self.recent <= 1:
            raise Refusal("AttentionGateSpec", "recent in [0, 1]", f"{self.recent}", "half the budget is usual")


class _Gate(nn.Module):
    """One block's gate: causal attention in few channels, then one logit a key-value head."""

    def __init__(self, spec: AttentionGateSpec, generator: torch.Generator | None) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(spec.d_model)
        self.qkv = linear(spec.d_model, 3 * spec.width, generator, std=spec.d_model**-0.5)
        self.out = linear(2 * spec.width, spec.n_kv_heads, generator, std=spec.width**-0.5)

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B G S"]:
        q, k, v = self.qkv(self.norm(x))[:, None].chunk(3, -1)
        read = gated_attention(q, k, v)
        return self.out(torch.cat([read, v], -1)[:, 0]).mT


class AttentionGate(nn.Module, Policy):
    """Eviction flags for every token and head, made from the context.

        z = [softmax(q k^T / sqrt(width)) v ; v] W_o,    q, k, v = RMSNorm(X) W_qkv         one logit z a key-value head
        a key stays while sigmoid(z) is among the highest of the budget

    It is trained through the loss of the model that it is attached to: see `Evict` for the straight-through estimator.
    The gates are causal, so that a whole pass is what decoding would do; the model's own weights may stay frozen.

    Source: Zeng et al. 2024, In-context KV-Cache Eviction for LLMs via Attention-Gate. Its text was not at hand: flags
    for each head from the context are theirs; the form of the reduced attention and the token's own value beside it are
    reconstructions. A threshold on sigmoid(z), with a loss that holds the share that is dropped, would do without a
    budget; here a budget decides, as for every other policy, so that policies compare at equal ones.
    """

    name = "attention_gate"
    equation = "score_j = sigmoid of a logit from causal attention over X in few channels"
    source = "Zeng et al. 2024, Attention-Gate (reconstruction)"
    needs_stream = True

    def __init__(self, spec: AttentionGateSpec, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.spec, self.recent = spec, spec.recent
        self.gates = nn.ModuleList(_Gate(spec, generator) for _ in range(spec.n_layers))

    def scores(self, cache: Cache) -> Float[Tensor, "B G S"]:
        """sigmoid(z), in (0, 1). Raises Refusal for a block beyond the gates, or one of another width."""
        layer, stream = cache.layer, cache.stream
        if layer is None or not 0 <= layer < self.spec.n_layers:
            raise Refusal("AttentionGate", f"layers 0..{self.spec.n_layers - 1}", f"{layer}", "give each block a gate")
        if stream is None or stream.shape[-1] != self.spec.d_model:
            got = "none" if stream is None else f"{stream.shape[-1]} channels"
            raise Refusal("AttentionGate", f"a stream of {self.spec.d_model} channels", got, "copy the model's d_model")
        found: Tensor = self.gates[layer](stream.detach())
        return found.sigmoid()

    def extra_repr(self) -> str:
        """What print shows."""
        return f"width={self.spec.width}, recent={self.recent}"


__all__ = ["AttentionGate", "AttentionGateSpec"]
