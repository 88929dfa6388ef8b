"""What a cache policy is: scores for the keys that are cached; the highest stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Cache:
    """What a policy knows when room has to be made: the S tokens so far, those that are gone among them.

    mass    attention that each key has received so far, summed over queries and the query heads of its group [B G S]
    stream  residual stream entering the block, None where the policy does not ask for it                      [B S D]
    budget  keys that will stay, of each key-value head
    layer   the block
    """

    mass: Float[Tensor, "B G S"]
    stream: Float[Tensor, "B S D"] | None
    budget: int
    layer: int | None


class Policy:
    """Base of cache policies.

    A subclass names its row in POLICIES (``name``), says what it keeps (``equation``, ``source``), and implements
    `scores`. ``recent``, from 0 to 1, is the share of the budget that always goes to the latest keys. ``needs_stream``
    policies are given the residual stream.
    """

    name: ClassVar[str]
    equation: ClassVar[str]
    source: ClassVar[str]
    needs_stream: ClassVar[bool] = False
    recent: float = 0.0

    def scores(self, cache: Cache) -> Float[Tensor, "B G S"]:
        """What every key is worth; keys that are gone have scores that nobody reads. inf: keep in any case."""
        raise NotImplementedError

    @classmethod
    def describe(cls) -> dict[str, str]:
        """What this policy keeps, as one row of documentation."""
        return {"policy": cls.name, "keeps": cls.equation, "source": cls.source}


__all__ = ["Cache", "Policy"]
