"""What one call of block-sparse attention is about: sizes, scale, and where blocks lie against the diagonal."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Grid:
    """T queries and S keys cut into blocks: query block a holds queries [a * block, a * block + tile).

    Query i stands at position i + S - T: the last query sees the last key, as in decoding with a cache.
    """

    T: int
    S: int
    block: int
    causal: bool

    @property
    def nQ(self) -> int:  # noqa: N802
        """Query blocks."""
        return -(-self.T // self.block)

    @property
    def nS(self) -> int:  # noqa: N802
        """Key blocks."""
        return -(-self.S // self.block)

    @property
    def tile(self) -> int:
        """Queries of a block; fewer than ``block`` where there are not as many at all, as in decoding."""
        return min(self.block, self.T)

    def visible(self, device: torch.device) -> Bool[Tensor, "nQ nS"]:
        """Which pairs of blocks hold a query and a key that it may read."""
        ahead = self._ahead(device)
        return ahead > -self.tile if self.causal else torch.ones_like(ahead, dtype=torch.bool)

    def cuts(self, device: torch.device) -> list[tuple[Bool[Tensor, "nQ nS"], Bool[Tensor, "tile block"]]]:
        """Pairs of blocks that hold visible and hidden scores, and which scores are hidden in each of those pairs.

        Two kinds under causality, one key block apart, or one where positions start with a key block; without it, the
        last key block where S does not fill it. They come in the order of their keys.
        """
        ahead, visible = self._ahead(device), self.visible(device)
        i_t1, j_b = torch.arange(self.tile, device=device)[:, None], torch.arange(self.block, device=device)
        if not self.causal:
            rest = self.S % self.block
            last = visible & (torch.arange(self.nS, device=device) == self.nS - 1)
            return [(last, (j_b >= rest).expand(self.tile, -1))] if rest else []
        offset = (self.S - self.T) % self.block
        return [(visible & (ahead == d), j_b > i_t1 + d) for d in (offset, offset - self.block) if -self.tile < d]

    def _ahead(self, device: torch.device) -> Int[Tensor, "nQ nS"]:
        """Query i of a block may read key j of a key block, both counted from 0 there, where j <= i + ahead."""
        blocks_Q1 = torch.arange(self.nQ, device=device)[:, None]
        return (blocks_Q1 - torch.arange(self.nS, device=device)) * self.block + self.S - self.T


@dataclass(frozen=True, slots=True)
class Problem:
    """Sizes and resolved options. ``dtype`` is the accumulation dtype: float64 for float64 inputs, else float32."""

    B: int
    H: int
    G: int
    grid: Grid
    scale: float
    dtype: torch.dtype
    device: torch.device


def pad_rows(x: Float[Tensor, "... n C"], length: int) -> Float[Tensor, "... length C"]:
    """Rows of zeros appended until there are ``length``; ``x`` itself where there already are."""
    return x if x.shape[-2] == length else torch.nn.functional.pad(x, (0, 0, 0, length - x.shape[-2]))
