"""Interventions on gate scores."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from gatescope.errors import Refusal
from gatescope.interventions.base import Indices, Intervention, indices
from gatescope.taps import GateScores


@dataclass(eq=False)
class BlendGates(Intervention):
    """Blend every gate between off and what the model learned.

        s' = (1 - amount) * identity + amount * s,   identity = 1 (multiplied gates) or 0 (added gates)

    amount  0: the gate changes nothing; 1: the model as it is
    layers  blocks; None for all

    The control blends scores that were shuffled over the tokens of each sequence (`ShuffledGates`). Raises Refusal for
    an amount outside [0, 1].
    """

    amount: float | int
    layers: Indices | None = None

    name = "blend_gates"
    sites = frozenset({"gate"})
    equation = "s' = (1 - amount) * identity + amount * s; identity 1 for multiplied gates, 0 for added ones"
    control_rule = "the same blend of scores shuffled over the tokens of each sequence"

    def __post_init__(self) -> None:
        if not 0 <= self.amount <= 1:
            raise Refusal("BlendGates", "an amount from 0 (off) to 1 (learned)", str(self.amount), "stay between them")
        if self.layers is not None:
            self.where = self.layers = indices("BlendGates", "layers", self.layers)

    def apply(self, value: GateScores, layer: int | None) -> GateScores:
        """The gate with blended scores."""
        off = torch.full_like(value.scores, value.identity)
        return replace(value, scores=torch.lerp(off, value.scores, float(self.amount)))

    def control(self, seed: int) -> ShuffledGates:
        """The same blend of scores shuffled over tokens."""
        return ShuffledGates(self.amount, self.layers, seed)


@dataclass(eq=False)
class ShuffledGates(BlendGates):
    """BlendGates on scores that another token of the same sequence got: same scores, wrong queries.

    Every sequence and layer has a permutation of its own, shared by heads and channels. Padding is not told apart, so
    measure on sequences of one length. Raises Refusal where shuffling changes nothing: a single token, or a gate
    without input.
    """

    seed: int = 0

    def apply(self, value: GateScores, layer: int | None) -> GateScores:
        """The gate with shuffled, blended scores."""
        B, _, T, _ = value.scores.shape
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + (layer or 0))
        order_BT = torch.rand(B, T, generator=generator).argsort(-1).to(value.scores.device)
        shuffled = value.scores.take_along_dim(order_BT[:, None, :, None], dim=2)
        if torch.equal(shuffled, value.scores):
            raise Refusal(
                "BlendGates.control",
                "scores that differ between tokens",
                "the same for all tokens" if T > 1 else "a single token",
                "use a longer input; a gate without input has no such control",
            )
        return super().apply(replace(value, scores=shuffled), layer)

    def control(self, seed: int) -> ShuffledGates:
        """Refused: this is the control."""
        raise Refusal("BlendGates.control", "an intervention", "a control", "call control() on BlendGates itself")


__all__ = ["BlendGates", "ShuffledGates"]
