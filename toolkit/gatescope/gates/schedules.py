"""Schedules: a number that moves with the training step, such as the temperature of a gate that becomes sparse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from gatescope.errors import Refusal

Shape = Literal["exponential", "linear"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """From ``start`` to ``end`` in ``steps`` optimiser steps, and ``end`` ever after.

        linear       start + (end - start) u
        exponential  start (end / start)^u             u = clip((step - hold) / steps, 0, 1)

    hold  steps at ``start`` before it moves

    Raises Refusal for values that are not positive, or fewer than one step.

    Source: Nie et al. 2021 (EvoMoE) anneal the temperature of their gate; the exponential shape is a reconstruction.
    """

    start: float
    end: float
    steps: int
    shape: Shape = "exponential"
    hold: int = 0

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise Refusal("Schedule", f"a finite {name} above 0", f"{value}", "temperatures go down to 0.05 or so")
        if self.steps < 1 or self.hold < 0:
            got = f"steps={self.steps}, hold={self.hold}"
            raise Refusal("Schedule", "steps >= 1 and hold >= 0", got, "start == end holds a value for ever")
        if self.shape not in get_args(Shape):
            raise Refusal("Schedule", f"shape in {get_args(Shape)}", repr(self.shape), "choose one of them")

    def at(self, step: int) -> float:
        """The value at optimiser step 0, 1, ..."""
        share = min(max((step - self.hold) / self.steps, 0.0), 1.0)
        if self.shape == "linear":
            return self.start + (self.end - self.start) * share
        return self.start * (self.end / self.start) ** share


__all__ = ["Schedule"]
