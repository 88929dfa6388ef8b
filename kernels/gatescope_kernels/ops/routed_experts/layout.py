"""How assignments (a token and one expert it names) are permuted so that every expert's rows lie together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

#: Elements that the rows of a strip may take, so that they are still in cache when they are read again.
STRIP_ELEMENTS = 1 << 19
#: Multiply-adds of a product up to which two experts share a call: below it, waiting for threads costs as much.
SHARED_WORK = 1 << 26
#: Two experts share a call when the shorter one lacks at most this share of the rows.
PADDING = 1 / 8


class Run(NamedTuple):
    """One matrix product: one expert, or two of about equal load side by side.

    first    the first expert; the second is ``step`` further, so that one view reaches both without a copy
    experts  how many
    start    row of the strip
    rows     rows an expert
    """

    first: int
    step: int
    experts: int
    start: int
    rows: int


@dataclass(frozen=True, slots=True)
class Strip:
    """Consecutive runs whose rows [start, stop) are worked on while they are in cache.

    padding  rows that belong to no token, counted from the strip's first: tails of shorter experts; None without any
    """

    start: int
    stop: int
    runs: tuple[Run, ...]
    padding: Int[Tensor, " P"] | None

    def of(self, rows: Tensor) -> Tensor:
        """The strip's part of all rows."""
        return rows[self.start : self.stop]

    def blocks(self, rows: Float[Tensor, "R C"]) -> list[Tensor]:
        """Of each run its part of the strip's rows, as [experts rows C]. There are many: one view is one call."""
        C, offset = rows.shape[1], rows.storage_offset()
        return [
            rows.as_strided((experts, each, C), (each * C, C, 1), offset + start * C)
            for _, _, experts, start, each in self.runs
        ]

    def experts(self, w: Float[Tensor, "E I O"]) -> list[Tensor]:
        """Of each run its experts' weights, as [experts I O]."""
        (_, *size), (stride, *strides), offset = w.shape, w.stride(), w.storage_offset()
        return [
            w.as_strided((experts, *size), (step * stride, *strides), offset + first * stride)
            for first, step, experts, _, _ in self.runs
        ]


@dataclass(frozen=True, slots=True)
class Layout:
    """All rows, expert by expert.

    token   the token of each row; rows of padding say 0                       [R]
    row     the row of each assignment                                         [N k]
    idle    experts that no token names
    strips  cover all rows in order
    """

    token: Int[Tensor, " R"]
    row: Int[Tensor, "N k"]
    idle: tuple[int, ...]
    strips: tuple[Strip, ...]

    @property
    def longest(self) -> int:
        """Rows of the longest strip."""
        return max(strip.stop - strip.start for strip in self.strips)


@dataclass(frozen=True, slots=True)
class Order:
    """Assignments sorted by expert, tokens in order. R = N k.

    expert      of each assignment in that order               [R]
    assignment  its number n k + j                             [R]
    end         of each expert's assignments, exclusive        [E]
    """

    expert: Int[Tensor, " R"]
    assignment: Int[Tensor, " R"]
    end: Int[Tensor, " E"]

    @property
    def load(self) -> Int[Tensor, " E"]:
        """Assignments of each expert."""
        return self.end.diff(prepend=self.end.new_zeros(1))


def sort_by_expert(expert_index: Int[Tensor, "N k"], E: int) -> Order:
    """Made where the indices are: nothing is read on the host."""
    expert, assignment = expert_index.flatten().sort(stable=True)
    end = torch.searchsorted(expert, torch.arange(E, device=expert.device), right=True)
    return Order(expert, assignment, end)


def permute(expert_index: Int[Tensor, "N k"], E: int, D: int, F: int) -> Layout:
    """Sort assignments by expert, busiest first, tokens in order; at most 1 / 8 of the rows are padding.

    Made on the host, where numbers of 16 bits are sorted in linear time.
    """
    index = expert_index.flatten().cpu().numpy()
    order = index.astype(np.int16 if E <= 1 << 15 else np.int64).argsort(kind="stable")
    load = np.bincount(index, minlength=E)
    loads = load.tolist()
    starts = [0] * E
    strips: list[Strip] = []
    runs: list[Run] = []
    padding: list[int] = []
    first = end = 0

    def close() -> None:
        nonlocal first
        strips.append(Strip(first, end, tuple(runs), torch.tensor(padding, device=device) if padding else None))
        runs.clear()
        padding.clear()
        first = end

    device = expert_index.device
    for pair in _pairs(loads, D * F):
        low, high = min(pair), max(pair)
        rows, experts = loads[pair[0]], len(pair)
        runs.append(Run(low, high - low, experts, end - first, rows))
        starts[low], starts[high] = end, end + rows * (experts - 1)
        short = starts[pair[-1]] - first
        padding.extend(range(short + loads[pair[-1]], short + rows))
        end += rows * experts
        if (end - first) * (D + 2 * F) >= STRIP_ELEMENTS:
            close()
    if runs:
        close()
    place = np.arange(len(order)) + np.repeat(np.array(starts) - (load.cumsum() - load), load)
    row, token = np.empty_like(order), np.zeros(end, order.dtype)
    row[order], token[place] = place, order // expert_index.shape[1]
    return Layout(
        token=torch.from_numpy(token).to(device),
        row=torch.from_numpy(row).to(device).view_as(expert_index),
        idle=tuple(e for e in range(E) if not loads[e]),
        strips=tuple(strips),
    )


def _pairs(loads: list[int], work: int) -> list[tuple[int, ...]]:
    """Busy experts, the busier first: two neighbours by load where they are small and alike, single ones elsewhere."""
    busy = sorted(filter(loads.__getitem__, range(len(loads))), key=loads.__getitem__, reverse=True)
    pairs: list[tuple[int, ...]] = []
    i = 0
    while i < len(busy):
        most = loads[busy[i]]
        alike = i + 1 < len(busy) and most - loads[busy[i + 1]] <= PADDING * most
        size = 2 if alike and most * work <= SHARED_WORK else 1
        pairs.append(tuple(busy[i : i + size]))
        i += size
    return pairs
