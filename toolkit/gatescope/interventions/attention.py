"""Interventions on what attention may read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from gatescope_kernels import Visibility

from gatescope.errors import Refusal
from gatescope.interventions.base import Draw, Indices, Intervention, chosen, indices, matched
from gatescope.taps import AttentionCall


@dataclass(eq=False)
class MaskKeys(Intervention):
    """Hide keys from every query, in some layers.

        A[i, j] = 0 for j in keys, the other keys renormalised

    keys    positions, 0-based, or a Draw
    layers  blocks; None for all

    A row left without any key outputs zeros. The control hides as many random keys, never the first one, padding or
    those of the intervention; it draws anew for each sequence length. Raises Refusal for keys that are repeated,
    negative or, on first use, beyond the sequence.
    """

    keys: Indices | Draw
    layers: Indices | None = None

    name = "mask_keys"
    sites = frozenset({"attention"})
    equation = "A[i, j] = 0 for j in keys, the other keys renormalised"
    control_rule = "as many random other keys, never the first"

    def __post_init__(self) -> None:
        if not isinstance(self.keys, Draw):
            self.keys = indices("MaskKeys", "keys", self.keys)
        if self.layers is not None:
            self.where = self.layers = indices("MaskKeys", "layers", self.layers)

    def apply(self, value: AttentionCall, layer: int | None) -> AttentionCall:
        """The call with the keys hidden."""
        B, _, S, _ = value.k.shape
        mask = value.key_mask
        if mask is None:
            mask = torch.ones(B, S, dtype=torch.bool, device=value.k.device)
        hidden = chosen("MaskKeys", "keys", self.keys, range(S))
        if isinstance(self.keys, Draw) and not bool(mask.all()):
            hidden = self.keys.among(mask.all(0).nonzero().flatten().tolist(), "MaskKeys")
        return replace(value, key_mask=mask.index_fill(1, torch.tensor(hidden, device=mask.device), False))

    def control(self, seed: int) -> MaskKeys:
        """As many random other keys, never the first, same layers."""
        return replace(self, keys=matched("MaskKeys", self.keys, seed, avoid=(0,)))


@dataclass(eq=False)
class WindowWithSinks(Intervention):
    """Let every query read only the last ``window`` keys and the first ``sink_tokens`` keys (StreamingLLM).

        query p reads key j when j <= p and (p - j < window or j < sink_tokens)

    layers  blocks; None for all

    The control spends the same number of keys on the recent past alone: a window of window + sink_tokens without
    sinks. It draws nothing, so ``seed`` changes nothing. Raises Refusal for a window below 1, negative sink_tokens
    and, on first use, an attention whose own window is narrower; the control also without sink tokens.
    """

    window: int
    sink_tokens: int
    layers: Indices | None = None

    name = "window_with_sinks"
    sites = frozenset({"attention"})
    equation = "query p reads key j when j <= p and (p - j < window or j < sink_tokens)"
    control_rule = "the same number of keys as one window without sinks; draws nothing"

    def __post_init__(self) -> None:
        Visibility(window=self.window, sink_tokens=self.sink_tokens)
        if self.layers is not None:
            self.where = self.layers = indices("WindowWithSinks", "layers", self.layers)

    def apply(self, value: AttentionCall, layer: int | None) -> AttentionCall:
        """The call with the narrower view."""
        own = value.visibility
        if own.window is not None and own.window < self.window:
            raise Refusal(
                "WindowWithSinks",
                "to narrow what attention reads",
                f"window {self.window} over the model's own window {own.window} in layer {layer}",
                f"choose a window of {own.window} or less",
            )
        return replace(value, visibility=replace(own, window=self.window, sink_tokens=self.sink_tokens))

    def control(self, seed: int) -> WindowWithSinks:
        """A window of the same number of keys, without sink tokens."""
        if not self.sink_tokens:
            raise Refusal(
                "WindowWithSinks.control",
                "sink_tokens >= 1, which the control spends on a wider window",
                "sink_tokens=0",
                "compare with WindowWithSinks(window, sink_tokens=1) instead",
            )
        return replace(self, window=self.window + self.sink_tokens, sink_tokens=0)


__all__ = ["MaskKeys", "WindowWithSinks"]
