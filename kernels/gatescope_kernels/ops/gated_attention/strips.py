"""Strips of the T x S score matrix: a block of rows against every key that any of them sees.

A strip holds whole rows, so softmax, statistics and gradients of a row need one visit. Its size is bounded by
`ELEMENTS`; only where a few rows alone are longer does it grow, linearly, with S.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gatescope_kernels.ops.gated_attention.problem import Problem

#: Scores in one strip, all heads together.
ELEMENTS = 1 << 20
#: Rows of one query head in a strip: fewer starve the matrix products, more compute scores above the diagonal.
ROWS = 64


@dataclass(frozen=True, slots=True)
class Strip:
    """Rows [i0, i1) of key-value heads [n0, n1), each with its R query heads.

    parts    (columns of the strip, keys they are); two where sink tokens lie apart from a window
    hidden   what rows may not see among columns [edge, width); None where they see all
    """

    n0: int
    n1: int
    i0: int
    i1: int
    parts: tuple[tuple[slice, slice], ...]
    width: int
    edge: int
    hidden: Bool[Tensor, "n 1 t columns"] | None


def strips(problem: Problem) -> Iterator[Strip]:
    """Every strip that holds a visible score, the key mask aside."""
    N, R = problem.B * problem.G, problem.H // problem.G
    rule, shift = problem.visibility, problem.S - problem.T
    longest = problem.S
    if rule.window is not None:
        longest = min(longest, (1 if rule.causal else 2) * rule.window + rule.sink_tokens + ROWS)
    n = min(N, max(1, ELEMENTS // (R * min(ROWS, problem.T) * longest)))
    mask_N = None if problem.key_mask is None else problem.key_mask.repeat_interleave(problem.G, dim=0)
    for i0 in range(0, problem.T, ROWS):
        i1 = min(i0 + ROWS, problem.T)
        low, first_high, _ = problem.bounds(i0 + shift)
        _, high, kept = problem.bounds(i1 - 1 + shift)
        spans = [(0, kept), (low, high)] if kept < low else [(0, max(kept, high))]
        parts, width = [], 0
        for j0, j1 in spans:
            if j1 > j0:
                parts.append((slice(width, width + j1 - j0), slice(j0, j1)))
                width += j1 - j0
        if not parts:
            continue
        edge = first_high if rule.window is None and mask_N is None else 0
        hidden = _hidden(problem, i0, i1, parts, edge) if rule.window is not None or edge < width else None
        for n0 in range(0, N, n):
            n1 = min(n0 + n, N)
            hidden_n = hidden
            if mask_N is not None:
                masked = ~torch.cat([mask_N[n0:n1, keys] for _, keys in parts], -1)[:, None, None]
                hidden_n = masked if hidden is None else masked | hidden
            yield Strip(n0, n1, i0, i1, tuple(parts), width, edge, hidden_n)


def _hidden(
    problem: Problem, i0: int, i1: int, parts: list[tuple[slice, slice]], edge: int
) -> Bool[Tensor, "1 1 t columns"] | None:
    if problem.visibility.window is None and not problem.visibility.causal:
        return None
    p = torch.arange(i0, i1, device=problem.device)[:, None] + problem.S - problem.T
    j = torch.cat([torch.arange(keys.start, keys.stop, device=problem.device) for _, keys in parts])[edge:]
    low, high, kept = problem.bounds(p)
    return ~(((j >= low) & (j < high)) | (j < kept))[None, None]


class Workspace:
    """q, k, v in the accumulation dtype with heads folded, and buffers that every strip reuses.

    q [B H T K] is read as [N R T K], k and v as [N S .]: N = B * G key-value heads, R = H / G queries on each.
    """

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> None:
        self.problem, self.N, self.R = problem, problem.B * problem.G, problem.H // problem.G
        self.q = self.fold(q)
        self.k = k.to(problem.dtype).reshape(self.N, *k.shape[2:])
        self.v = v.to(problem.dtype).reshape(self.N, *v.shape[2:])
        self._buffers: dict[str, Tensor] = {}

    def fold(self, x: Float[Tensor, "B H T C"]) -> Float[Tensor, "N R T C"]:
        """Heads grouped by the key-value head they share."""
        return x.to(self.problem.dtype).reshape(self.N, self.R, *x.shape[2:])

    def rows(self, x: Float[Tensor, "N R T C"], strip: Strip) -> Float[Tensor, "n rows C"]:
        """The strip's rows, R * t of each key-value head."""
        return x[strip.n0 : strip.n1, :, strip.i0 : strip.i1].reshape(strip.n1 - strip.n0, -1, x.shape[-1])

    def put(self, x: Float[Tensor, "N R T C"], strip: Strip, rows: Float[Tensor, "n rows C"]) -> None:
        """Write the strip's rows back."""
        x[strip.n0 : strip.n1, :, strip.i0 : strip.i1] = rows.view(strip.n1 - strip.n0, self.R, -1, x.shape[-1])

    def keys(self, x: Float[Tensor, "N S C"], strip: Strip) -> Float[Tensor, "n width C"]:
        """The strip's keys (or values)."""
        parts = [x[strip.n0 : strip.n1, keys] for _, keys in strip.parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def buffer(self, name: str, strip: Strip) -> Float[Tensor, "n rows width"]:
        """Uninitialised room for one value a score of the strip."""
        shape = (strip.n1 - strip.n0, self.R * (strip.i1 - strip.i0), strip.width)
        size = shape[0] * shape[1] * shape[2]
        flat = self._buffers.get(name)
        if flat is None or flat.numel() < size:
            flat = self._buffers[name] = torch.empty(size, dtype=self.problem.dtype, device=self.problem.device)
        return flat[:size].view(shape)

    def scores(
        self, q_rows: Float[Tensor, "n rows K"], k_strip: Float[Tensor, "n width K"], strip: Strip
    ) -> Float[Tensor, "n rows width"]:
        """q.k of the strip, -inf where hidden. ``q_rows`` carries the scale."""
        s = torch.bmm(q_rows, k_strip.mT, out=self.buffer("scores", strip))
        self.hide(s, strip, -torch.inf)
        return s

    def hide(self, x: Float[Tensor, "n rows width"], strip: Strip, value: float) -> None:
        """Overwrite what the strip's rows may not see."""
        if strip.hidden is not None:
            n, t = strip.n1 - strip.n0, strip.i1 - strip.i0
            x.view(n, self.R, t, -1)[..., strip.edge :].masked_fill_(strip.hidden, value)
