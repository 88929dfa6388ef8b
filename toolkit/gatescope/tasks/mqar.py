"""Multi-query associative recall: keys bound to values in the context, then asked for, all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gatescope.errors import Refusal


@dataclass(frozen=True, kw_only=True)
class MQAR:
    """The task and its sizes. How a sequence of T = ``length`` tokens is made:

    1. ``pairs`` different keys are drawn for the sequence. Ids 1..vocab//2 - 1 are keys, vocab//2..vocab - 1 values.
    2. The sequence is ``segments`` segments of equal length. Where there are several, each begins with BOUNDARY (id 0).
    3. In a segment every key stands once with a value drawn for it there, in random order: k v k v ...
    4. Then every key is asked for once, in random order, and its answer follows: k v. Values that answer nothing lie
       between the questions where ``length`` leaves room.

    A later segment binds the same keys anew, so what an earlier one said is not only useless but wrong.

    Source: Arora et al. 2023, Zoology, section 3 and appendix (there the answer does not follow, and questions come at
    power-law distances); segments are ours: they ask whether a model can forget at a sign.

    Raises Refusal for sizes that leave no keys or no room.
    """

    BOUNDARY: ClassVar[int] = 0

    pairs: int = 16
    length: int = 64
    vocab: int = 128
    segments: int = 1

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.segments < 1:
            got = f"pairs={self.pairs}, segments={self.segments}"
            raise Refusal("MQAR", "pairs >= 1 and segments >= 1", got, "pass positive numbers")
        if self.pairs > self.vocab // 2 - 1:
            got = f"{self.pairs} of {self.vocab // 2 - 1}"
            raise Refusal("MQAR", "no more pairs than there are keys", got, "use fewer pairs or a larger vocab")
        need = 4 * self.pairs + (self.segments > 1)
        if self.length % self.segments or self.length // self.segments < need:
            raise Refusal(
                "MQAR",
                f"segments of equal length, at least {need} tokens each (key, value, question, answer for every pair)",
                f"length={self.length} in {self.segments} segments",
                f"use length={need * self.segments} or a larger multiple of {self.segments}",
            )

    @property
    def first_value(self) -> int:
        """The id of the first value; keys lie below it, from 1."""
        return self.vocab // 2

    def batch(self, seed: int | Sequence[int], size: int) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """``size`` sequences, the same for the same ``seed`` (an integer, or several such as (seed, step)).

        The mask is True at the questions: the token after one is the value that its segment bound to the key.
        """
        if size < 1:
            raise Refusal("MQAR.batch", "size >= 1", f"{size}", "ask for at least one sequence")
        rng = np.random.default_rng(seed)
        keys = 1 + rng.random((size, self.first_value - 1)).argsort(1)[:, : self.pairs]
        parts = [self._segment(rng, keys) for _ in range(self.segments)]
        tokens, mask = (np.concatenate(side, 1) for side in zip(*parts, strict=True))
        return torch.from_numpy(tokens), torch.from_numpy(mask)

    def _segment(
        self, rng: np.random.Generator, keys: Int[np.ndarray, "B P"]
    ) -> tuple[Int[np.ndarray, "B t"], Bool[np.ndarray, "B t"]]:
        (size, pairs), length = keys.shape, self.length // self.segments
        values = rng.integers(self.first_value, self.vocab, (size, pairs))
        tokens = rng.integers(self.first_value, self.vocab, (size, length))
        mask = np.zeros(tokens.shape, dtype=bool)
        start = int(self.segments > 1)
        tokens[:, :start] = self.BOUNDARY
        told, asked = (rng.random((size, pairs)).argsort(1) for _ in range(2))
        rows = np.arange(size)[:, None]
        at = start + 2 * np.arange(pairs)
        tokens[:, at], tokens[:, at + 1] = keys[rows, told], values[rows, told]
        # Of the items that follow, `pairs` are questions two tokens wide and the rest single values, in random order.
        room = length - start - 2 * pairs
        chosen = np.sort(rng.random((size, room - pairs)).argsort(1)[:, :pairs], 1)
        at = start + 2 * pairs + chosen + np.arange(pairs)
        tokens[rows, at], tokens[rows, at + 1] = keys[rows, asked], values[rows, asked]
        mask[rows, at] = True
        return tokens, mask


__all__ = ["MQAR"]
