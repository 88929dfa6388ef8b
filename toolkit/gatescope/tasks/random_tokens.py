"""Sequences in which nothing can be predicted: learnt by heart, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from gatescope.errors import Refusal


@dataclass(frozen=True, kw_only=True)
class RandomTokens:
    """Tokens drawn uniformly and independently, so that a next token is a random label of what comes before it.

    count      sequences there are, to be learnt by heart; 0: every batch is new, and the best loss is log(vocab)
    vocab      token ids are 0..vocab-1
    length     T of a sequence
    pool_seed  of the sequences that there are

    Source: random labels of Zhang et al. 2016 (Understanding Deep Learning Requires Rethinking Generalization), token
    by token. Raises Refusal for a negative count, fewer than two token ids or tokens.
    """

    count: int = 64
    vocab: int = 33
    length: int = 48
    pool_seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 0 or self.vocab < 2 or self.length < 2:
            got = f"count={self.count}, vocab={self.vocab}, length={self.length}"
            raise Refusal("RandomTokens", "count >= 0, vocab >= 2, length >= 2", got, "use the defaults")

    def batch(self, seed: int | Sequence[int], size: int) -> tuple[Int[Tensor, "B T"], None]:
        """``size`` sequences, drawn with replacement where there is a pool; the same for the same ``seed``.

        No position is marked. Raises Refusal for a size below 1.
        """
        if size < 1:
            raise Refusal("RandomTokens.batch", "size >= 1", f"{size}", "ask for at least one sequence")
        rng = np.random.default_rng(seed)
        if not self.count:
            return torch.from_numpy(rng.integers(0, self.vocab, (size, self.length))), None
        return self.pool[torch.from_numpy(rng.integers(0, self.count, size))], None

    @cached_property
    def pool(self) -> Int[Tensor, "N T"]:
        """All sequences there are."""
        drawn = np.random.default_rng(self.pool_seed).integers(0, self.vocab, (self.count, self.length))
        return torch.from_numpy(drawn)


__all__ = ["RandomTokens"]
