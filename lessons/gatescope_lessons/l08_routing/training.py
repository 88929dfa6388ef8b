"""The recipes of lesson 08: eight experts, or one that becomes eight, trained as `gatescope.clustered` does."""

from __future__ import annotations

from gatescope.clustered import STEPS, Recipe
from gatescope.gates import Schedule
from gatescope.layers import AuxiliaryLoss, BiasUpdate, DenseToSparse

#: Steps that one shared expert is trained for, before it becomes eight, where a recipe wants that.
BASE_STEPS = 300


def annealed(steps: int) -> DenseToSparse:
    """The gate that becomes sparse over ``steps``."""
    return DenseToSparse(Schedule(2.0, 0.1, steps))


_LATER = STEPS - BASE_STEPS
RECIPES: dict[str, Recipe] = {
    "top-1": Recipe(),
    "top-1, loss 0.01": Recipe(rule=AuxiliaryLoss(0.01)),
    "top-1, loss 0.1": Recipe(rule=AuxiliaryLoss(0.1)),
    "top-1, bias": Recipe(rule=BiasUpdate(1e-3)),
    "top-2": Recipe(k=2),
    "dense to sparse": Recipe(gate=annealed(STEPS)),
    "EvoMoE": Recipe(gate=annealed(_LATER), base_steps=BASE_STEPS),
    "EvoMoE, no masks": Recipe(gate=annealed(_LATER), base_steps=BASE_STEPS, masked=0.0),
}
