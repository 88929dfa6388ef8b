"""Policies without weights: recency with sinks, heavy hitters, and chance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gatescope.errors import Refusal
from gatescope.policies.base import Cache, Policy


@dataclass(frozen=True)
class Recent(Policy):
    """The first ``sink_tokens`` keys and the latest ones.

    With room made at every token it is `interventions.WindowWithSinks` of window budget - sink_tokens + 1. Raises
    Refusal for negative sink_tokens and, on first use, more than the budget.
    """

    sink_tokens: int = 4

    name = "recent"
    equation = "score_j = j, infinite for the first sink_tokens"
    source = "Xiao et al. 2023, StreamingLLM; sink_tokens=0 is a plain window"

    def __post_init__(self) -> None:
        if self.sink_tokens < 0:
            raise Refusal("Recent", "sink_tokens >= 0", f"{self.sink_tokens}", "0 is a plain window")

    def scores(self, cache: Cache) -> Float[Tensor, "B G S"]:
        """Positions."""
        if self.sink_tokens > cache.budget:
            got = f"sink_tokens={self.sink_tokens} and a budget of {cache.budget}"
            raise Refusal("Recent", "a budget that holds the sink tokens", got, "raise the budget")
        position = torch.arange(cache.mass.shape[-1], device=cache.mass.device).to(cache.mass)
        position[: self.sink_tokens] = torch.inf
        return position.expand_as(cache.mass)


@dataclass(frozen=True)
class HeavyHitters(Policy):
    """The keys that have received most attention, beside the latest.

    The mass is that of attention as the evictions left it, summed over the query heads that share a key. Raises Refusal
    for ``recent`` outside [0, 1].
    """

    recent: float = 0.5

    name = "heavy_hitters"
    equation = "score_j = sum_i A_ij over the queries so far"
    source = "Zhang et al. 2023, H2O: half the budget for heavy hitters, half for the latest keys"

    def __post_init__(self) -> None:
        _check_share("HeavyHitters", self.recent)

    def scores(self, cache: Cache) -> Float[Tensor, "B G S"]:
        """The mass so far."""
        return cache.mass


@dataclass(frozen=True)
class Chance(Policy):
    """The control: keys drawn at random, each layer, sequence and head for itself, beside the latest.

    A key keeps the number it drew, so what stays is a uniform sample of all that passed, not of what was left before.
    Raises Refusal for ``recent`` outside [0, 1].
    """

    seed: int = 0
    recent: float = 0.5

    name = "chance"
    equation = "score_j ~ U(0, 1), drawn once a key"
    source = "control"

    def __post_init__(self) -> None:
        _check_share("Chance", self.recent)

    def scores(self, cache: Cache) -> Float[Tensor, "B G S"]:
        """Numbers drawn in the order of positions: a key's own does not depend on how many follow."""
        B, G, S = cache.mass.shape
        drawn = []
        for number in range(B * G):
            key = (self.seed * 1_000_003 + (cache.layer or 0)) * 10_007 + number
            generator = torch.Generator().manual_seed(key)
            drawn.append(torch.rand(S, generator=generator, dtype=torch.float64))
        return torch.stack(drawn).view(B, G, S).to(cache.mass)


def _check_share(owner: str, recent: float) -> None:
    if not 0 <= recent <= 1:
        raise Refusal(owner, "recent, a share of the budget, in [0, 1]", f"{recent}", "half the budget is usual")


__all__ = ["Chance", "HeavyHitters", "Recent"]
