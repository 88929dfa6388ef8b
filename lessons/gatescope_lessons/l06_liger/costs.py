"""What decoding one more token costs, after how many others: numbers carried, and time on this machine."""

from __future__ import annotations

import time
from dataclasses import fields, replace

import torch
from gatescope.layers import AttentionSpec, LigerAttention, LigerSpec, LigerState
from torch import Tensor

#: A layer of a size that one meets: 8 heads of 64, a window of 64.
LAYER = AttentionSpec(8, 8, 64)
_LIGER = LigerSpec(attention=LAYER, window=64)
FORMS: dict[str, LigerSpec] = {
    "cache": replace(_LIGER, mix=0.0, window=None),
    "liger": _LIGER,
    "recurrent": replace(_LIGER, mix=1.0),
    "window": replace(_LIGER, mix=0.0),
}


def layer_of(form: str) -> LigerAttention:
    """The layer, its weights drawn from one seed whatever the form."""
    return LigerAttention(FORMS[form], LAYER.n_heads * LAYER.head_dim, generator=torch.Generator().manual_seed(0))


def state_after(layer: LigerAttention, length: int) -> LigerState:
    """A state as ``length`` tokens leave it, filled with random numbers: what it costs does not depend on them."""
    state, spec = layer.start(1), layer.liger
    places = 0 if spec.mix == 1 else length if spec.window is None else min(length, spec.window - 1)
    kept = torch.randn(2, 1, LAYER.n_kv_heads, places, LAYER.head_dim, generator=torch.Generator().manual_seed(1))
    return replace(state, memory=torch.randn_like(state.memory), keys=kept[0], values=kept[1], position=length)


def carried(state: LigerState) -> int:
    """Numbers in a state."""
    parts = (getattr(state, field.name) for field in fields(state))
    return sum(part.numel() for part in parts if isinstance(part, Tensor))


@torch.no_grad()
def seconds(form: str, length: int, repeats: int = 9) -> float:
    """Median time of one step after ``length`` tokens, in seconds, on one thread. Noisy where others work as well."""
    layer = layer_of(form)
    state, x, found = state_after(layer, length), torch.randn(1, LAYER.n_heads * LAYER.head_dim), []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        layer.step(x, state)
        found.append(time.perf_counter() - began)
    return sorted(found[1:])[repeats // 2]


__all__ = ["FORMS", "LAYER", "carried", "layer_of", "seconds", "state_after"]
