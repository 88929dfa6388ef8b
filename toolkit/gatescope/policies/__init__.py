"""Policies: which keys stay when the key-value cache is full, all under one budget.

evict = Evict(HeavyHitters(), budget=48, every=8)
with evict.on(model):
    nll = next_token_nll(model, tokens)
with evict.control(seed=0).on(model):
    at_random = next_token_nll(model, tokens)
"""

from gatescope.policies.attention_gate import AttentionGate, AttentionGateSpec
from gatescope.policies.base import Cache, Policy
from gatescope.policies.evict import Evict
from gatescope.policies.training_free import Chance, HeavyHitters, Recent

_TABLE = (Recent, HeavyHitters, AttentionGate, Chance)
POLICIES: dict[str, type[Policy]] = {policy.name: policy for policy in _TABLE}

__all__ = [
    "POLICIES",
    "AttentionGate",
    "AttentionGateSpec",
    "Cache",
    "Chance",
    "Evict",
    "HeavyHitters",
    "Policy",
    "Recent",
]
