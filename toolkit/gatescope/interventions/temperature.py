"""An intervention on the temperature of attention."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gatescope.errors import Refusal
from gatescope.interventions.base import Indices, Intervention, indices
from gatescope.taps import AttentionCall


@dataclass(eq=False)
class ScaleLogits(Intervention):
    """Multiply the logits of attention, as an inverse temperature does.

        A[i, j] = softmax_j(beta S_ij)

    beta    above 0; 1 changes nothing, towards 0 all keys a row sees are averaged, large values leave the first of them
    layers  blocks; None for all

    A learned sink keeps its logit. The control moves every query by as much, |beta - 1| |q|, in a random direction.
    Raises Refusal for a beta that is not positive and finite.
    """

    beta: float | int
    layers: Indices | None = None

    name = "scale_logits"
    sites = frozenset({"attention"})
    equation = "A[i, j] = softmax_j(beta S_ij)"
    control_rule = "every query moved by as much, |beta - 1| |q|, in a random direction"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise Refusal("ScaleLogits", "a finite beta above 0", str(self.beta), "0.01 averages nearly evenly")
        if self.layers is not None:
            self.where = self.layers = indices("ScaleLogits", "layers", self.layers)

    def apply(self, value: AttentionCall, layer: int | None) -> AttentionCall:
        """The call with the other scale."""
        scale = value.q.shape[-1] ** -0.5 if value.scale is None else value.scale
        return replace(value, scale=self.beta * scale)

    def control(self, seed: int) -> ShiftQueries:
        """Queries moved as far, in random directions, same layers."""
        return ShiftQueries(abs(self.beta - 1), seed, self.layers)


@dataclass(eq=False)
class ShiftQueries(Intervention):
    """The control of `ScaleLogits`: q + amount |q| u, u a random unit vector for each layer, head and token."""

    amount: float | int
    seed: int
    layers: Indices | None = None

    sites = frozenset({"attention"})

    def __post_init__(self) -> None:
        if self.layers is not None:
            self.where = self.layers = indices("ShiftQueries", "layers", self.layers)

    def apply(self, value: AttentionCall, layer: int | None) -> AttentionCall:
        """The call with the queries moved."""
        q = value.q
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + (layer or 0))
        drawn: Tensor = torch.randn(q.shape, generator=generator).to(q)
        unit = drawn / drawn.norm(dim=-1, keepdim=True)
        return replace(value, q=q + self.amount * q.norm(dim=-1, keepdim=True) * unit)

    def control(self, seed: int) -> Intervention:
        """Raises Refusal: it is a control already."""
        raise Refusal(
            "ShiftQueries.control", "an intervention", "a control", "call control() on the intervention itself"
        )


__all__ = ["ScaleLogits", "ShiftQueries"]
