"""One update of a Hopfield memory, the energy it lowers, and updates until nothing moves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gatescope.errors import Refusal
from gatescope.normalisers import SOFTMAX, NormaliserSpec, normalise, potential


def update(
    state: Float[Tensor, "*B Q D"],
    stored: Float[Tensor, "*B N D"],
    beta: float,
    normaliser: NormaliserSpec = SOFTMAX,
) -> Float[Tensor, "*B Q D"]:
    """One update of Q states in a memory of N patterns, the rows of X.

        xi' = X^T softmax(beta X xi)          or with another row of NORMALISERS in place of softmax

    It is attention: the state is a query, the patterns are keys and values, beta is the scale.
    Raises Refusal for a beta that is not a positive number.

    Source: Ramsauer et al. 2020 (arXiv 2008.02217), eq. 3; Santos et al. 2024 (arXiv 2402.13725) for sparse ones.
    """
    return normalise(_scores(state, stored, beta), normaliser) @ stored


def energy(
    state: Float[Tensor, "*B Q D"],
    stored: Float[Tensor, "*B N D"],
    beta: float,
    normaliser: NormaliserSpec = SOFTMAX,
) -> Float[Tensor, "*B Q"]:
    """The energy of every state, which no update raises.

        E = -(1/beta) potential(beta X xi) + xi.xi / 2 + log(N) / beta + max_j |x_j|^2 / 2

    For softmax the potential is logsumexp and E >= 0. The update is the concave-convex procedure on E: the potential
    is convex and its gradient by the scores is the normaliser (Yuille and Rangarajan 2003), so this holds for every
    row of NORMALISERS. Raises Refusal as `update` does.

    Source: Ramsauer et al. 2020 (arXiv 2008.02217), eq. 2.
    """
    largest = stored.square().sum(-1).amax(-1)[..., None]
    constant = math.log(stored.shape[-2]) / beta + largest / 2
    return state.square().sum(-1) / 2 - potential(_scores(state, stored, beta), normaliser) / beta + constant


def _scores(state: Tensor, stored: Tensor, beta: float) -> Tensor:
    if not (math.isfinite(beta) and beta > 0):
        raise Refusal("hopfield", "a finite beta above 0", f"{beta}", "beta = 0 is the mean of all patterns")
    return beta * state @ stored.mT


@dataclass(frozen=True, slots=True, eq=False)
class Retrieval:
    """What `retrieve` went through.

    states    the query, then the state after each update                            [U+1 *B Q D]
    energies  of these states                                                        [U+1 *B Q]
    weights   with which the last state reads the patterns                           [*B Q N]
    moved     how far the last update moved each state, Euclidean                    [*B Q]
    at_rest   whether no state moved further than the tolerance in the last update
    """

    states: Float[Tensor, "U *B Q D"]
    energies: Float[Tensor, "U *B Q"]
    weights: Float[Tensor, "*B Q N"]
    moved: Float[Tensor, "*B Q"]
    at_rest: bool

    @property
    def state(self) -> Float[Tensor, "*B Q D"]:
        """The last state."""
        return self.states[-1]

    @property
    def updates(self) -> int:
        """How many were made."""
        return len(self.states) - 1


def retrieve(
    state: Float[Tensor, "*B Q D"],
    stored: Float[Tensor, "*B N D"],
    beta: float,
    normaliser: NormaliserSpec = SOFTMAX,
    *,
    updates: int = 1,
    tolerance: float = 0.0,
) -> Retrieval:
    """Update until no state moves further than ``tolerance``, but at most ``updates`` times.

    Raises Refusal for fewer than one update, a negative tolerance, and as `update` does.
    """
    if updates < 1 or tolerance < 0:
        got = f"updates={updates}, tolerance={tolerance}"
        raise Refusal("retrieve", "at least one update and a tolerance of 0 or more", got, "one update is attention")
    states = [state]
    while True:
        states.append(update(states[-1], stored, beta, normaliser))
        moved = (states[-1] - states[-2]).norm(dim=-1)
        at_rest = bool((moved <= tolerance).all())
        if at_rest or len(states) > updates:
            break
    return Retrieval(
        states=torch.stack(states),
        energies=torch.stack([energy(each, stored, beta, normaliser) for each in states]),
        weights=normalise(_scores(states[-1], stored, beta), normaliser),
        moved=moved,
        at_rest=at_rest,
    )
