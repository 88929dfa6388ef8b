"""Interventions on the residual stream."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gatescope.errors import Refusal
from gatescope.interventions.base import Draw, Indices, Intervention, chosen, indices, matched


@dataclass(eq=False)
class _OfDims(Intervention):
    """Some channels of the residual stream, behind some blocks, at some positions."""

    dims: Indices | Draw
    after_layers: Indices | None
    positions: Indices | None = field(default=None, kw_only=True)

    sites = frozenset({"resid"})

    def __post_init__(self) -> None:
        owner = type(self).__name__
        if not isinstance(self.dims, Draw):
            self.dims = indices(owner, "dims", self.dims)
        if self.positions is not None:
            self.positions = indices(owner, "positions", self.positions)
        if self.after_layers is not None:
            self.where = self.after_layers = indices(owner, "after_layers", self.after_layers)

    def control(self, seed: int) -> Self:
        """As many random other dims, everything else the same."""
        return replace(self, dims=matched(type(self).__name__, self.dims, seed))

    def _selected(self, h: Float[Tensor, "B T D"]) -> Bool[Tensor, "T D"]:
        _, T, D = h.shape
        owner = type(self).__name__
        dims = torch.tensor(chosen(owner, "dims", self.dims, range(D)))
        tokens = range(T) if self.positions is None else chosen(owner, "positions", self.positions, range(T))
        selected_TD = torch.zeros(T, D, dtype=torch.bool)
        selected_TD[torch.tensor(tokens)[:, None], dims] = True
        return selected_TD.to(h.device)


@dataclass(eq=False)
class ZeroDims(_OfDims):
    """Set channels of the residual stream to zero where it leaves some blocks.

        h[b, t, d] = 0 for d in dims, t in positions

    dims          channels, or a Draw
    after_layers  blocks behind which to do it; None for all
    positions     tokens at which to do it; None for all

    The control zeroes as many random other dims at the same places. Raises Refusal for indices that are repeated,
    negative or, on first use, beyond the model.
    """

    name = "zero_dims"
    equation = "h[b, t, d] = 0 for d in dims and t in positions, after the layers"
    control_rule = "as many random other dims, same layers, same positions"

    def apply(self, value: Float[Tensor, "B T D"], layer: int | None) -> Float[Tensor, "B T D"]:
        """The hidden state with the channels zeroed."""
        return value.masked_fill(self._selected(value), 0)


@dataclass(eq=False)
class ClampDims(_OfDims):
    """Limit the magnitude of channels of the residual stream where it leaves some blocks.

        h[b, t, d] = min(max(h[b, t, d], -limit), limit) for d in dims, t in positions

    ``dims``, ``after_layers`` and ``positions`` as in ZeroDims; ``limit`` in units of h. The control clamps as many
    random other dims at the same places. Raises Refusal for a limit that is not positive and finite, and for indices
    as ZeroDims does.
    """

    limit: float | int

    name = "clamp_dims"
    equation = "h[b, t, d] = min(max(h[b, t, d], -limit), limit) for d in dims and t in positions, after the layers"
    control_rule = "as many random other dims, same layers, same positions, same limit"

    def __post_init__(self) -> None:
        if not (self.limit > 0 and math.isfinite(self.limit)):
            raise Refusal("ClampDims", "a positive finite limit", str(self.limit), "use ZeroDims to remove the values")
        super().__post_init__()

    def apply(self, value: Float[Tensor, "B T D"], layer: int | None) -> Float[Tensor, "B T D"]:
        """The hidden state with the channels clamped."""
        return torch.where(self._selected(value), value.clamp(-self.limit, self.limit), value)


@dataclass(eq=False)
class SetDims(_OfDims):
    """Set channels of the residual stream to one value where it leaves some blocks.

        h[b, t, d] = value for d in dims, t in positions

    ``dims``, ``after_layers`` and ``positions`` as in ZeroDims; ``value`` in units of h. With the mean over other
    inputs it asks whether the model reads a channel as a constant (Sun et al. 2024, table 3). The control sets as many
    random other dims to the same value. Raises Refusal for a value that is NaN or infinite, and for indices as ZeroDims
    does.
    """

    value: float | int

    name = "set_dims"
    equation = "h[b, t, d] = value for d in dims and t in positions, after the layers"
    control_rule = "as many random other dims, same layers, same positions, same value"

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise Refusal("SetDims", "a finite value", str(self.value), "pass a mean over other inputs")
        super().__post_init__()

    def apply(self, value: Float[Tensor, "B T D"], layer: int | None) -> Float[Tensor, "B T D"]:
        """The hidden state with the channels set."""
        return value.masked_fill(self._selected(value), self.value)


__all__ = ["ClampDims", "SetDims", "ZeroDims"]
