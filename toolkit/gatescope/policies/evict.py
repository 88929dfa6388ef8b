"""A forward pass as decoding with a full cache would have it: keys that were dropped are not read again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from gatescope.errors import Refusal
from gatescope.interventions import Intervention
from gatescope.policies.base import Cache, Policy
from gatescope.policies.training_free import Chance
from gatescope.taps import AttentionCall

#: Added to the logit of a key that is gone, in nats: exp of it is 0 in every dtype.
GONE = -1000.0
#: While a policy learns, what is left of a key that is gone: enough to tell what it would have given.
LEAK = 1e-6


@dataclass(eq=False)
class Evict(Intervention):
    """Let a policy hold the key-value cache of every head at a budget, in a pass over a whole sequence.

        before query s = budget + r * every, r = 1, 2, ...: of the keys that are left before s, each key-value head
        keeps the ``budget`` best; no query from s on reads the others

    policy   what is kept; the latest round(recent * budget) keys always are
    budget   keys a head keeps; the cache grows to budget + every in between
    every    tokens from one eviction to the next

    What is gone enters as one more channel of q and k for each eviction, which adds -1000 nats to its logits: the
    model's own softmax forgets it, and probes see the attention the model used. Only the statistic "visible" still
    counts it. A policy sees nothing but the past, so the pass gives what token-by-token decoding would. After the pass
    ``kept`` holds, by layer, which keys were left at the end [B G T].

    While gradients are on and the policy's scores carry them, a key that is gone keeps a weight of 1e-6, and what is
    kept, m in {0, 1}, has the gradient of its score p:

        logits + log(m + 1e-6),   dm / dp = 1                       (straight-through)

    so that dL/dp_j is what reading key j would do to the loss. The control keeps as many keys drawn at random, the
    latest as the policy has them. Materialises T x T weights, block by block of queries.

    Raises Refusal for a budget or interval below 1, padding, packed documents, softcap, an attention that is not over
    its own sequence and causal without a window, and scores that are NaN.
    """

    policy: Policy
    budget: int
    every: int = 1
    kept: dict[int | None, Tensor] = field(default_factory=dict, init=False)

    sites = frozenset({"attention"})
    equation = "query i reads key j when j is still among the budget best of its head at i"
    control_rule = "as many keys drawn at random, as many latest ones"

    def __post_init__(self) -> None:
        if self.budget < 1 or self.every < 1:
            got = f"budget={self.budget}, every={self.every}"
            raise Refusal("Evict", "a budget and an interval of 1 or more", got, "pass whole numbers of tokens")
        self._stream: Tensor | None = None
        if self.policy.needs_stream:
            self.sites = frozenset({"attention", "embed", "resid"})

    def edit(self, site: str, layer: int | None, value: Any) -> Any:
        """Attention without what is gone; the stream is remembered on its way."""
        if site != "attention":
            self._stream = value
            return value
        return super().edit(site, layer, value)

    def apply(self, value: AttentionCall, layer: int | None) -> AttentionCall:
        """The call whose logits know what is gone. A sequence within budget + every stays as it is."""
        _check(value)
        B, G, T, _ = value.k.shape
        starts = list(range(self.budget + self.every, T, self.every))
        kept = torch.ones(B, G, T, dtype=torch.bool, device=value.k.device)
        mass = torch.zeros(B, G, T, dtype=torch.promote_types(value.k.dtype, torch.float32), device=value.k.device)
        biases = []
        for begin, start in zip([0, *starts], starts, strict=False):
            mass = mass + _received(value, kept, begin, start)
            stream = None if self._stream is None else self._stream[:, :start]
            scores = self.policy.scores(Cache(mass[..., :start], stream, self.budget, layer))
            kept = torch.cat([self._best(scores, kept[..., :start]), kept[..., start:]], -1)
            biases.append(_bias(kept, scores))
        self.kept[layer] = kept
        return _with_bias(value, starts, torch.stack(biases, -1)) if biases else value

    def control(self, seed: int) -> Evict:
        """As many keys at random. Raises Refusal where the policy is chance already."""
        if isinstance(self.policy, Chance):
            raise Refusal("Evict.control", "a policy other than chance", "Chance", "call control() on another policy")
        return Evict(Chance(seed, self.policy.recent), self.budget, self.every)

    def _best(self, scores: Float[Tensor, "B G S"], left: Bool[Tensor, "B G S"]) -> Bool[Tensor, "B G S"]:
        """The ``budget`` best of the keys that are left; of equal ones the earlier."""
        ranked = scores.detach()
        if bool(ranked.isnan().any()):
            owner = type(self.policy).__name__
            raise Refusal("Evict", "scores without NaN", f"NaN from {owner}", "a NaN has no rank; find its cause")
        latest = round(self.policy.recent * self.budget)
        S = ranked.shape[-1]
        newest = torch.arange(S, device=ranked.device) >= S - latest
        ranked = ranked.masked_fill(newest, torch.inf).masked_fill(~left, -torch.inf)
        rank = ranked.argsort(dim=-1, descending=True, stable=True).argsort(-1)
        return rank < self.budget


def _check(call: AttentionCall) -> None:
    seen = call.visibility
    padded = call.key_mask is not None and not bool(call.key_mask.all())
    odd = {
        "padding": padded,
        "packed documents": call.documents is not None,
        "a softcap": call.softcap is not None,
        "a window": seen.window is not None,
        "no causality": not seen.causal,
        "another number of keys": call.q.shape[2] != call.k.shape[2],
    }
    if any(odd.values()):
        got = ", ".join(name for name, there in odd.items() if there)
        raise Refusal("Evict", "plain causal attention over one whole sequence", got, "pass equal texts, no cache")


@torch.no_grad()
def _received(call: AttentionCall, kept: Bool[Tensor, "B G T"], begin: int, end: int) -> Float[Tensor, "B G T"]:
    """The attention that queries begin..end - 1 give to every key, over the keys that are left to them."""
    T, G = kept.shape[2], kept.shape[1]
    scale = call.q.shape[-1] ** -0.5 if call.scale is None else call.scale
    dtype = torch.promote_types(call.q.dtype, torch.float32)
    q = call.q[:, :, begin:end].unflatten(1, (G, -1)).to(dtype)
    logits = scale * q @ call.k[:, :, None].to(dtype).mT
    later = torch.ones(end - begin, T, dtype=torch.bool, device=kept.device).triu(begin + 1)
    logits = logits.masked_fill(later | ~kept[:, :, None, None], -torch.inf)
    if call.sink is not None:
        sink = torch.as_tensor(call.sink, dtype=dtype, device=kept.device).expand(call.q.shape[1]).view(G, -1, 1, 1)
        logits = torch.cat([logits, sink.expand(*logits.shape[:-1], 1)], -1)
    return logits.softmax(-1)[..., :T].sum((2, 3))


def _bias(kept: Bool[Tensor, "B G T"], scores: Float[Tensor, "B G S"]) -> Float[Tensor, "B G T"]:
    """What is added to the logits of each key from now on."""
    if not (scores.requires_grad and torch.is_grad_enabled()):
        return torch.zeros(kept.shape, dtype=scores.dtype, device=kept.device).masked_fill(~kept, GONE)
    S = scores.shape[-1]
    m = kept[..., :S].to(scores.dtype) + (scores - scores.detach())
    return functional.pad(torch.log(m + LEAK), (0, kept.shape[-1] - S))


def _with_bias(call: AttentionCall, starts: list[int], bias: Float[Tensor, "B G T R"]) -> AttentionCall:
    """The call whose logit of (i, j) has bias[..., j, r] added, r the last of ``starts`` at or before i."""
    B, H, T, K = call.q.shape
    scale = K**-0.5 if call.scale is None else call.scale
    after = torch.arange(T, device=call.q.device)[:, None] >= torch.tensor(starts, device=call.q.device)
    ended = torch.cat([after[:, 1:], torch.zeros_like(after[:, :1])], -1)
    now = (after & ~ended).to(call.q).expand(B, H, T, len(starts))
    q, k = torch.cat([call.q, now], -1), torch.cat([call.k, (bias / scale).to(call.k)], -1)
    return replace(call, q=q, k=k, scale=scale)


__all__ = ["Evict"]
