"""What one call of gated attention is about, with all options resolved: sizes, scale, visibility, wanted statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gatescope_kernels.errors import Refusal

OPERATOR = "gated_attention"


@dataclass(frozen=True, slots=True)
class Visibility:
    """Which keys a query may read.

    Query i of T stands at absolute position p = i + S - T (the last query sees the last key, as in decoding with a
    cache). Key j is visible when every rule that is set holds:

        causal:  j <= p
        window:  p - j < window          or j < sink_tokens   (StreamingLLM keeps the first keys)

    A window without ``causal`` is two-sided: |p - j| < window. Without a window ``sink_tokens`` changes nothing. In
    packed documents the first keys are those of the row's own document: j < start + sink_tokens.

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


class RowBounds(NamedTuple):
    """Rows i see keys [low_i, high_i) and keys [start_i, kept_i), the key mask aside. b is 1 without documents."""

    start: Int[Tensor, "b t"]
    low: Int[Tensor, "b t"]
    high: Int[Tensor, "b t"]
    kept: Int[Tensor, "b t"]

    def see(self, keys: Int[Tensor, "*rows n"]) -> Bool[Tensor, "b t n"]:
        """Whether each row may read each of ``keys``."""
        start, low, high, kept = (x[..., None] for x in self)
        return ((keys >= low) & (keys < high)) | ((keys >= start) & (keys < kept))


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Sizes and resolved options. ``dtype`` is the accumulation dtype: float64 for float64 inputs, else float32.

    start, stop   the document [start, stop) that each row belongs to, int32; None where nothing is packed
    """

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
    start: Int[Tensor, "B T"] | None = None
    stop: Int[Tensor, "B T"] | None = None
    softcap: float | None = None

    def bounds(self, p: Any, start: Any = 0, stop: Any = None) -> tuple[Any, Any, Any]:
        """What position p of the document [start, stop) sees, before the key mask: keys [low, high), [start, kept).

        All three grow with p. Arguments are ints or integer tensors, and so are the three bounds; without documents
        all keys are the one document.
        """
        rule, stop = self.visibility, self.S if stop is None else stop
        sinks, low, high = start, start + 0 * p, stop + 0 * p
        if rule.window is not None:
            sinks = _clip(start + rule.sink_tokens, start, stop)
            low, high = _clip(p - rule.window + 1, start, stop), _clip(p + rule.window, start, stop)
        if rule.causal:
            return low, _clip(p + 1, start, stop), _clip(p + 1, start, sinks)
        return low, high, sinks + 0 * p

    def row_bounds(self, samples: slice = slice(None), rows: slice = slice(None)) -> RowBounds:
        """The bounds of rows of samples, [b t]."""
        p = torch.arange(self.S - self.T, self.S, device=self.device)[None, rows]
        if self.start is None or self.stop is None:
            return RowBounds(torch.zeros_like(p), *self.bounds(p))
        start = self.start[samples, rows].long()
        return RowBounds(start, *self.bounds(p, start, self.stop[samples, rows].long()))

    def chosen(self) -> tuple[Int[Tensor, "b T N"], Bool[Tensor, "b T N"]]:
        """Where ``keys`` lie in each row's own document, and whether they do: b is 1 without documents.

        A key beyond the end of a document is given as the document's last.
        """
        keys = torch.tensor(self.keys, device=self.device, dtype=torch.long)
        if self.start is None or self.stop is None:
            return keys.expand(1, self.T, -1), torch.ones_like(keys, dtype=torch.bool).expand(1, self.T, -1)
        places, stop = self.start.long()[..., None] + keys, self.stop.long()[..., None]
        return places.minimum(stop - 1), places < stop

    def count_visible(self) -> Int[Tensor, "B T"]:
        """n_i: how many keys row i sees, in O(T + S)."""
        start, low, high, kept = self.row_bounds()
        ends: tuple[Tensor, ...] = (high.maximum(kept), low, kept.minimum(low), start)
        if self.key_mask is not None:
            upto = torch.nn.functional.pad(self.key_mask.cumsum(-1), (1, 0))
            ends = tuple(upto.gather(1, end.expand(self.B, -1)) for end in ends)
        high, low, apart, start = ends
        return (high - low + apart - start).expand(self.B, -1)


def _clip(x: Any, low: Any, high: Any) -> Any:
    if isinstance(x, Tensor):
        mixed = isinstance(low, Tensor) != isinstance(high, Tensor)  # which clamp does not take at once
        return x.clamp(min=low).clamp(max=high) if mixed else x.clamp(low, high)
    return max(low, min(high, x))
