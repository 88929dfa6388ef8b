"""A bigram chain with in-context binding: most tokens need no attention, a few can only be had by looking back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gatescope.errors import Refusal


@dataclass(frozen=True, kw_only=True)
class BigramBinding:
    """The task and its sizes. How a sequence of T = ``length`` tokens is made:

    1. Token 0 is BOS (id 0). Ids 1..n_triggers are triggers, the rest of 1..n_tokens are ordinary.
    2. For this sequence, every trigger is bound to a value, an ordinary token drawn uniformly.
    3. After a trigger comes its value.
    4. After any other token a trigger comes with probability ``trigger_share``, all alike; else an ordinary token by
       the bigram chain, whose rows are drawn once, from ``chain_seed``, as Dirichlet(``concentration``). After BOS the
       ordinary token is uniform.

    The value after the first occurrence of a trigger cannot be known; after a later one an induction head reads it
    from the context. Everywhere else attention has nothing to find: there it should do nothing, and a sink is one way
    of doing nothing.

    Source: the bigram model with in-context bigrams of Bietti et al. 2023 (Birth of a Transformer, section 3). Its use
    for sinks, with heads that are dormant off the triggers, follows the Bigram-Backcopy of Guo et al. 2024
    (Active-Dormant Attention Heads).

    Raises Refusal for sizes that leave no triggers, no ordinary tokens or no room for a binding.
    """

    bos: ClassVar[int] = 0

    n_tokens: int = 32
    n_triggers: int = 3
    trigger_share: float = 0.2
    concentration: float = 0.1
    length: int = 48
    chain_seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.n_triggers <= self.n_tokens - 2:
            raise Refusal(
                "BigramBinding",
                "at least 1 trigger and 2 ordinary tokens",
                f"n_triggers={self.n_triggers} of n_tokens={self.n_tokens}",
                "use fewer triggers or more tokens",
            )
        if not 0 < self.trigger_share < 1:
            raise Refusal("BigramBinding", "trigger_share in (0, 1)", f"{self.trigger_share}", "the default is 0.2")
        if not self.concentration > 0:
            raise Refusal("BigramBinding", "concentration > 0", f"{self.concentration}", "the default is 0.1")
        if self.length < 5:
            raise Refusal(
                "BigramBinding", "length >= 5 (BOS, trigger, value, trigger, value)", f"{self.length}", "use 48"
            )

    @property
    def vocab(self) -> int:
        """Number of token ids, BOS included."""
        return self.n_tokens + 1

    @cached_property
    def transitions(self) -> Float[np.ndarray, "vocab vocab"]:
        """P(next | current), averaged over bindings: rows sum to 1, nothing leads to BOS."""
        ordinary = self.vocab - 1 - self.n_triggers
        rows = np.zeros((self.vocab, self.vocab))
        chain = np.random.default_rng(self.chain_seed).dirichlet(np.full(ordinary, self.concentration), ordinary)
        rows[1 : 1 + self.n_triggers, 1 + self.n_triggers :] = 1 / ordinary
        rows[self.bos, 1 + self.n_triggers :] = (1 - self.trigger_share) / ordinary
        rows[1 + self.n_triggers :, 1 + self.n_triggers :] = (1 - self.trigger_share) * chain
        others = np.r_[self.bos, 1 + self.n_triggers : self.vocab]
        rows[others, 1 : 1 + self.n_triggers] = self.trigger_share / self.n_triggers
        return rows

    def batch(self, seed: int | Sequence[int], size: int) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """``size`` sequences, the same for the same ``seed`` (an integer, or several such as (seed, step)).

        The mask is True at query positions that hold a trigger seen before and have a next token: there, and only
        there, the target is a bound value that the context shows.
        """
        if size < 1:
            raise Refusal("BigramBinding.batch", "size >= 1", f"{size}", "ask for at least one sequence")
        rng = np.random.default_rng(seed)
        values = rng.integers(1 + self.n_triggers, self.vocab, (size, self.n_triggers))
        uniform = rng.random((self.length, size, 1))
        rows = np.arange(size)
        tokens = np.zeros((self.length, size), dtype=np.int64)
        for t in range(1, self.length):
            previous = tokens[t - 1]
            drawn = (self._cumulative[previous] <= uniform[t]).sum(1)
            trigger = previous - 1
            bound = (trigger >= 0) & (trigger < self.n_triggers)
            tokens[t] = np.where(bound, values[rows, np.where(bound, trigger, 0)], drawn)
        tokens = np.ascontiguousarray(tokens.T)
        return torch.from_numpy(tokens), torch.from_numpy(self._bound(tokens))

    @cached_property
    def _cumulative(self) -> Float[np.ndarray, "vocab vocab-1"]:
        # Without the last column, rounding can never draw an id beyond the vocabulary.
        return np.ascontiguousarray(self.transitions.cumsum(1)[:, :-1])

    def _bound(self, tokens: Int[np.ndarray, "B T"]) -> Bool[np.ndarray, "B T"]:
        """True where a trigger stands that stood earlier in its sequence, the last position left out."""
        mask = np.zeros(tokens.shape, dtype=bool)
        for trigger in range(1, 1 + self.n_triggers):
            here = tokens == trigger
            mask |= here & (here.cumsum(1) > 1)
        mask[:, -1] = False
        return mask

    def best_loss(self) -> dict[str, float]:
        """The lowest expected cross-entropy any predictor can reach, in nats a token, exactly.

        ordinary  after BOS and ordinary tokens: entropy of their rows of the chain, weighted with how often each
                  token stands at a position that has a next one
        first     after a trigger not seen before: log(number of ordinary tokens)
        trigger   after a trigger seen before (the mask of `batch`): 0
        """
        rows = self.transitions
        entropy = -(rows * np.log(np.where(rows > 0, rows, 1))).sum(1)
        occupancy, visits = np.eye(self.vocab)[self.bos], np.zeros(self.vocab)
        for _ in range(self.length - 1):
            visits += occupancy
            occupancy = occupancy @ rows
        visits[1 : 1 + self.n_triggers] = 0
        return {
            "ordinary": float(visits @ entropy / visits.sum()),
            "first": float(np.log(self.vocab - 1 - self.n_triggers)),
            "trigger": 0.0,
        }
