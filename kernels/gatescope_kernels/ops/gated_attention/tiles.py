"""Which tiles of the T x S score matrix hold anything visible, and what each of them hides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from gatescope_kernels.ops.gated_attention.problem import Problem


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows [i0, i1) against keys [j0, j1). ``hidden`` is None where every row sees every key."""

    i0: int
    i1: int
    j0: int
    j1: int
    hidden: Bool[Tensor, "B rows keys"] | None


def row_blocks(problem: Problem, size: int) -> Iterator[tuple[int, int]]:
    """Blocks of rows, in order."""
    return ((i, min(i + size, problem.T)) for i in range(0, problem.T, size))


def tiles_of_rows(problem: Problem, i0: int, i1: int, size: int) -> Iterator[Tile]:
    """The tiles of rows [i0, i1) in which some row sees some key (the key mask aside), left to right."""
    rule, shift = problem.visibility, problem.S - problem.T
    first, last = i0 + shift, i1 - 1 + shift
    for j0 in range(0, problem.S, size):
        j1 = min(j0 + size, problem.S)
        if rule.causal and j0 > last:
            return
        if rule.window is not None and j0 >= rule.sink_tokens:
            if first - (j1 - 1) >= rule.window:
                continue
            if j0 - last >= rule.window:
                return
        yield Tile(i0, i1, j0, j1, _hidden(problem, i0, i1, j0, j1))


def _hidden(problem: Problem, i0: int, i1: int, j0: int, j1: int) -> Bool[Tensor, "B rows keys"] | None:
    rule, shift = problem.visibility, problem.S - problem.T
    first, last = i0 + shift, i1 - 1 + shift
    hides_future = rule.causal and j1 - 1 > first
    hides_far = (
        rule.window is not None
        and j1 > rule.sink_tokens
        and (last - j0 >= rule.window or j1 - 1 - first >= rule.window)
    )
    hidden = None
    if hides_future or hides_far:
        p = torch.arange(first, last + 1, device=problem.device)[:, None]
        j = torch.arange(j0, j1, device=problem.device)
        hidden = j > p if hides_future else torch.zeros(i1 - i0, j1 - j0, dtype=torch.bool, device=problem.device)
        if hides_far:
            hidden |= ((p - j).abs() >= rule.window) & (j >= rule.sink_tokens)
        hidden = hidden[None]
    if problem.key_mask is not None:
        masked = ~problem.key_mask[:, None, j0:j1]
        hidden = masked if hidden is None else hidden | masked
    return hidden
