"""What one call of gated attention is about, with all options resolved: sizes, scale, visibility, wanted statistics."""

from __future__ import annotations

from dataclasses import dataclass

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

    def bounds(self) -> tuple[Int[Tensor, " T"], Int[Tensor, " T"], Int[Tensor, " T"]]:
        """Visible keys of row i are [low_i, high_i) and [0, kept_i), before the key mask. Returns low, high, kept."""
        rule = self.visibility
        p = torch.arange(self.S - self.T, self.S, device=self.device)
        low, high, kept = torch.zeros_like(p), torch.full_like(p, self.S), torch.zeros_like(p)
        if rule.window is not None:
            low, high = p - rule.window + 1, p + rule.window
            kept = torch.full_like(p, rule.sink_tokens)
        if rule.causal:
            high, kept = high.minimum(p + 1), kept.minimum(p + 1)
        low, high, kept = (x.clamp(0, self.S) for x in (low, high, kept))
        return low, high.maximum(low), kept

    def count_visible(self) -> Int[Tensor, "B T"]:
        """n_i: how many keys row i sees, in O(T + S)."""
        low, high, kept = self.bounds()
        if self.key_mask is None:
            counts = torch.arange(self.S + 1, device=self.device)[None]
        else:
            counts = torch.nn.functional.pad(self.key_mask.cumsum(-1), (1, 0))
        near = counts[:, high] - counts[:, low]
        overlap = counts[:, high.minimum(kept)] - counts[:, low.minimum(kept)]
        return (near + counts[:, kept] - overlap).expand(self.B, -1)
