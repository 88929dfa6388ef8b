"""What one call of gated attention is about, with all options resolved: sizes, scale, visibility, wanted statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gatescope_kernels.errors import Refusal


@dataclass(frozen=True, slots=True)
class Visibility:
    """Which keys a query may read.

    Query i of T stands at absolute position p = i + S - T (the last query sees the last key, as in decoding with a
    cache). Key j is visible when every rule that is set holds:

        causal:  j <= p
        window:  p - j < window          or j < sink_tokens   (StreamingLLM keeps the first keys)

    A window without ``causal`` is two-sided: |p - j| < window. Without a window ``sink_tokens`` changes nothing.

    Raises Refusal for a window below 1 or a negative number of sink tokens.
    """

    causal: bool = True
    window: int | None = None
    sink_tokens: int = 0

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise Refusal("Visibility", "window >= 1 or None", str(self.window), "use window=None to see every key")
        if self.sink_tokens < 0:
            raise Refusal("Visibility", "sink_tokens >= 0", str(self.sink_tokens), "use sink_tokens=0 to keep none")


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Sizes and resolved options. ``dtype`` is the accumulation dtype: float64 for float64 inputs, else float32."""

    B: int
    H: int
    G: int
    T: int
    S: int
    scale: float
    visibility: Visibility
    key_mask: Bool[Tensor, "B S"] | None
    stats: frozenset[str]
    keys: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def bounds(self, p: Any) -> tuple[Any, Any, Any]:
        """What position p sees, before the key mask: keys [low, high) and keys [0, kept). All three grow with p.

        p is an int or an integer tensor, and so are the three bounds.
        """
        clip = torch.clamp if isinstance(p, Tensor) else _clip
        rule, S = self.visibility, self.S
        sinks, low, high = 0, 0 * p, 0 * p + S
        if rule.window is not None:
            sinks, low, high = min(rule.sink_tokens, S), clip(p - rule.window + 1, 0, S), clip(p + rule.window, 0, S)
        if rule.causal:
            return low, clip(p + 1, 0, S), clip(p + 1, 0, sinks)
        return low, high, 0 * p + sinks

    def count_visible(self) -> Int[Tensor, "B T"]:
        """n_i: how many keys row i sees, in O(T + S)."""
        low, high, kept = self.bounds(torch.arange(self.S - self.T, self.S, device=self.device))
        if self.key_mask is None:
            counts = torch.arange(self.S + 1, device=self.device)[None]
        else:
            counts = torch.nn.functional.pad(self.key_mask.cumsum(-1), (1, 0))
        apart = kept.minimum(low)  # sink tokens that lie before the near keys
        return (counts[:, high.maximum(kept)] - counts[:, low] + counts[:, apart]).expand(self.B, -1)


def _clip(x: int, low: int, high: int) -> int:
    return max(low, min(high, x))
