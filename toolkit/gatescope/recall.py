"""Layers that are compared by what they recall, and how recall is measured."""

from __future__ import annotations

import torch

from gatescope.layers import AttentionSpec, LinearAttentionSpec
from gatescope.models import TinyLM
from gatescope.tasks import MQAR

#: One head over D = 32. A short convolution lets a key see the token before it, so that all variants start from the
#: same knowledge of order; there is no other.
SOFTMAX = AttentionSpec(n_heads=1, n_kv_heads=1, head_dim=32, rope_theta=None, convolution=4)
#: Keys of 8 channels, fewer than the 16 pairs of the usual task: a state that cannot simply hold all of them.
GLA = LinearAttentionSpec(n_heads=1, key_dim=8, value_dim=32, convolution=4)


@torch.no_grad()
def accuracy(model: TinyLM, task: MQAR, size: int = 256, seed: int = 20251105) -> float:
    """Share of questions whose likeliest next token is the answer, on sequences that no run was trained on (training
    batches are drawn from (seed, step), these from one number)."""
    tokens, asked = task.batch(seed, size)
    guesses = model(tokens)[:, :-1].argmax(-1)
    return float((guesses == tokens[:, 1:])[asked[:, :-1]].double().mean())


__all__ = ["GLA", "SOFTMAX", "accuracy"]
