"""Random search: the baseline that a search has to beat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gatescope.errors import NonFiniteError, Refusal
from gatescope.search.space import Architecture, SearchSpace, random_architecture


@dataclass(frozen=True, slots=True)
class Scored:
    """A candidate and its score; more is better."""

    architecture: Architecture
    score: float


def random_search(
    space: SearchSpace, score: Callable[[Architecture], float], candidates: int, *, seed: int = 0
) -> list[Scored]:
    """Candidates drawn at random from ``space``, best first; of equal scores the one drawn first.

    score  trains a candidate for its part of the budget and tests it on validation data

    Raises Refusal for fewer than one candidate, NonFiniteError for a score that is NaN.

    Source: Li and Talwalkar 2019, Random Search and Reproducibility for Neural Architecture Search.
    """
    if candidates < 1:
        raise Refusal("random_search", "candidates >= 1", f"{candidates}", "draw at least one")
    drawn = [random_architecture(space, 1000 * seed + index) for index in range(candidates)]
    found = [Scored(architecture, float(score(architecture))) for architecture in drawn]
    if any(one.score != one.score for one in found):
        raise NonFiniteError("random_search", "scores that are numbers", "NaN", "score a lost candidate as 0")
    return sorted(found, key=lambda one: -one.score)


__all__ = ["Scored", "random_search"]
