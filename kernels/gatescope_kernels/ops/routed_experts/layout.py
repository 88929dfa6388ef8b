"""How assignments (a token and one expert it names) are permuted so that every expert's rows lie together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

#: Elements that the rows of a strip may take, so that they are still in cache when they are read again.
STRIP_ELEMENTS = 1 << 19
#: Multiply-adds of a product up to which two experts share a call: below it, waiting for threads costs as much.
SHARED_WORK = 1 << 26
#: Two experts share a call when the shorter one lacks at most this share of the rows.
PADDING = 1 / 8


@dataclass(frozen=True, slots=True)
class Run:
    """One matrix product: one expert, or two of about equal load side by side.

    experts     slice of the expert dimension; a step reaches the second expert without a copy
    start,stop  rows, counted from the strip's first
    rows        rows an expert
    padding     rows that belong to no token: empty, or the tail of the shorter expert
    """

    experts: slice
    start: int
    stop: int
    rows: int
    padding: slice

    def of(self, rows: Tensor) -> Tensor:
        """The run's part of a strip's rows [R C], as [experts rows C]."""
        return rows[self.start : self.stop].view(-1, self.rows, rows.shape[1])


@dataclass(frozen=True, slots=True)
class Strip:
    """Consecutive runs whose rows [start, stop) are worked on while they are in cache."""

    start: int
    stop: int
    runs: tuple[Run, ...]

    def of(self, rows: Tensor) -> Tensor:
        """The strip's part of all rows."""
        return rows[self.start : self.stop]


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
    """Sort assignments by expert, busiest first, tokens in order; at most 1 / 8 of the rows are padding."""
    order = sort_by_expert(expert_index, E)
    load = order.load
    loads = load.tolist()
    busy = sorted((e for e in range(E) if loads[e]), key=lambda e: (-loads[e], e))
    starts = [0] * E
    strips, runs, first, end = [], [], 0, 0
    for pair in _pairs(busy, loads, D * F):
        rows = loads[pair[0]]
        low, high = min(pair), max(pair)
        starts[low], starts[high] = end, end + rows * (len(pair) - 1)
        begin, end = end, end + rows * len(pair)
        tail = starts[pair[-1]] + loads[pair[-1]] - first
        runs.append(
            Run(
                slice(low, high + 1, max(high - low, 1)),
                begin - first,
                end - first,
                rows,
                slice(tail, tail + rows - loads[pair[-1]]),
            )
        )
        if (end - first) * (D + 2 * F) >= STRIP_ELEMENTS:
            strips.append(Strip(first, end, tuple(runs)))
            runs, first = [], end
    if runs:
        strips.append(Strip(first, end, tuple(runs)))
    shift = torch.tensor(starts, device=load.device) - (order.end - load)
    place = torch.arange(len(order.expert), device=load.device) + shift[order.expert]
    row = torch.zeros_like(place).index_copy_(0, order.assignment, place).view_as(expert_index)
    token = place.new_zeros(end).index_copy_(0, place, order.assignment // expert_index.shape[1])
    return Layout(token, row, tuple(e for e in range(E) if not loads[e]), tuple(strips))


def _pairs(busy: list[int], loads: list[int], work: int) -> list[tuple[int, ...]]:
    """Neighbours by load where they are small and alike, single experts elsewhere; the busier comes first."""
    pairs: list[tuple[int, ...]] = []
    i = 0
    while i < len(busy):
        most = loads[busy[i]]
        alike = i + 1 < len(busy) and most - loads[busy[i + 1]] <= PADDING * most
        size = 2 if alike and most * work <= SHARED_WORK else 1
        pairs.append(tuple(busy[i : i + size]))
        i += size
    return pairs
