"""Interventions on which experts tokens visit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gatescope.errors import Refusal
from gatescope.interventions.base import Indices, Intervention, chosen, indices
from gatescope.taps import RouterScores

#: A random other expert is drawn among this share of the others: those whose load is nearest.
_NEAREST = 0.25


@dataclass(eq=False)
class DropExperts(Intervention):
    """Take experts away from every token that visits them, in some layers.

        w'_j = 0 for the choices j of a dropped expert,    the others w'_j = w_j sum w / sum over kept j of w_j

    experts      experts, 0-based, the same in every layer
    layers       blocks; None for all that have a router
    renormalise  the weights that a token keeps sum to what all its weights summed to; False leaves them as they are

    No other expert takes the place of a dropped one, and a token that visits none but dropped ones gets nothing from
    the routed experts. The control drops as many random others of about the same load (`RandomExperts`). Raises
    Refusal for experts that are repeated, negative or, on first use, beyond the layer.
    """

    experts: Indices
    layers: Indices | None = None
    renormalise: bool = True

    name = "drop_experts"
    sites = frozenset({"router"})
    equation = "w_j = 0 for the choices j of dropped experts, the others renormalised to the same sum (or left)"
    control_rule = "as many random other experts, each drawn among the quarter whose load is nearest"

    def __post_init__(self) -> None:
        self.experts = indices("DropExperts", "experts", self.experts)
        if self.layers is not None:
            self.where = self.layers = indices("DropExperts", "layers", self.layers)

    def apply(self, value: RouterScores, layer: int | None) -> RouterScores:
        """The router's choice without the experts."""
        dropped = chosen("DropExperts", "experts", self.experts, range(value.probabilities.shape[-1]))
        return _without(value, dropped, self.renormalise)

    def control(self, seed: int) -> RandomExperts:
        """As many random other experts of about the same load, same layers."""
        return RandomExperts(self.experts, self.layers, self.renormalise, seed)


@dataclass(eq=False)
class RandomExperts(DropExperts):
    """DropExperts of others: for each of ``experts`` a random one whose load is near, different ones in every layer.

    The load is counted on the first forward pass that reaches a layer, text and padding alike, and the experts drawn
    then are dropped until the block ends. Raises Refusal where fewer others are left than are to be dropped.
    """

    seed: int = 0
    _drawn: dict[int | None, tuple[int, ...]] = field(default_factory=dict, init=False, repr=False)

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[Self]:
        """As `Intervention.on`; experts are drawn anew."""
        self._drawn.clear()
        with super().on(model):
            yield self

    def apply(self, value: RouterScores, layer: int | None) -> RouterScores:
        """The router's choice without experts of about the same load."""
        E = value.probabilities.shape[-1]
        spared = chosen("DropExperts", "experts", self.experts, range(E))
        if layer not in self._drawn:
            load = torch.bincount(value.index.flatten(), minlength=E).float()
            self._drawn[layer] = self._draw(load, spared, layer)
        return _without(value, self._drawn[layer], self.renormalise)

    def _draw(self, load: Float[Tensor, " E"], spared: tuple[int, ...], layer: int | None) -> tuple[int, ...]:
        others = [expert for expert in range(len(load)) if expert not in spared]
        if len(others) < len(spared):
            raise Refusal(
                "DropExperts.control",
                f"{len(spared)} others to draw from",
                f"{len(others)} of {len(load)}",
                "drop fewer experts",
            )
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + (layer or 0))
        counts, drawn = load.tolist(), list[int]()
        for expert in spared:
            left = sorted(set(others) - set(drawn), key=lambda other: (abs(counts[other] - counts[expert]), other))
            near = left[: max(2, round(_NEAREST * len(others)))]
            drawn.append(near[int(torch.randint(len(near), (), generator=generator))])
        return tuple(sorted(drawn))

    def control(self, seed: int) -> RandomExperts:
        """Refused: this is the control."""
        raise Refusal("DropExperts.control", "an intervention", "a control", "call control() on DropExperts itself")


def _without(scores: RouterScores, dropped: tuple[int, ...], renormalise: bool) -> RouterScores:
    gone = torch.isin(scores.index, torch.tensor(dropped, device=scores.index.device))
    weight = scores.weight.masked_fill(gone, 0)
    if renormalise:
        kept = weight.sum(-1, keepdim=True)
        weight = weight * (scores.weight.sum(-1, keepdim=True) / torch.where(kept == 0, 1, kept))
    return replace(scores, weight=weight)


__all__ = ["DropExperts", "RandomExperts"]
