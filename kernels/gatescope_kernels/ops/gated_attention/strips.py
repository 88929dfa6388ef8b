"""Strips of the T x S score matrix: a block of rows against every key that any of them sees.

A strip holds whole rows, so softmax, statistics and gradients of a row need one visit. Its size is bounded by
`ELEMENTS`; only where a few rows alone are longer does it grow, linearly, with S.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
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
    hidden   what the rules hide from rows among columns [edge, width); None where they hide nothing
    padding  what the key mask hides from all of them; None without one
    """

    n0: int
    n1: int
    i0: int
    i1: int
    parts: tuple[tuple[slice, slice], ...]
    width: int
    edge: int
    hidden: Bool[Tensor, "n 1 t columns"] | None
    padding: Bool[Tensor, "heads 1 1 width"] | None


def strips(problem: Problem) -> Iterator[Strip]:
    """Every strip that holds a visible score, the key mask aside. Those of the same heads follow each other."""
    G = problem.G
    bands = sorted(_bands(problem), key=_samples)
    n = _heads_at_once(problem, bands)
    for (b0, b1), alike in groupby(bands, key=_samples):
        of_heads, triangles = list(alike), dict[_Band, Tensor]()
        for n0 in range(b0 * G, b1 * G, n):
            n1 = min(n0 + n, b1 * G)
            samples, heads = slice(n0 // G, -(-n1 // G)), slice(n0 % G, n0 % G + n1 - n0)
            for band in of_heads:
                parts, hidden, padding = band.parts(), None, None
                if band.edge < band.width:
                    hidden = _rules(problem, band, samples, heads, triangles)
                if problem.key_mask is not None:
                    padding = ~torch.cat([problem.key_mask[samples, keys] for _, keys in parts], -1)[:, None, None]
                    padding = padding.repeat_interleave(G, 0)[heads]
                yield Strip(n0, n1, band.i0, band.i1, parts, band.width, band.edge, hidden, padding)


def count_strips(problem: Problem) -> int:
    """How many strips there are."""
    bands = list(_bands(problem))
    n = _heads_at_once(problem, bands)
    return sum(-(-(band.b1 - band.b0) * problem.G // n) for band in bands)


def _heads_at_once(problem: Problem, bands: list[_Band]) -> int:
    longest = max((band.width for band in bands), default=1)
    return max(1, ELEMENTS // (problem.H // problem.G * min(ROWS, problem.T) * longest))


class _Band(NamedTuple):
    """Rows [i0, i1) of samples [b0, b1), and the spans of keys that any of them sees; all of them see the first
    ``edge`` of these keys."""

    b0: int
    b1: int
    i0: int
    i1: int
    spans: tuple[tuple[int, int], ...]
    edge: int

    @property
    def width(self) -> int:
        return sum(j1 - j0 for j0, j1 in self.spans)

    def parts(self) -> tuple[tuple[slice, slice], ...]:
        """(Columns of the strip, keys they are)."""
        ends = accumulate(j1 - j0 for j0, j1 in self.spans)
        return tuple((slice(end - j1 + j0, end), slice(j0, j1)) for end, (j0, j1) in zip(ends, self.spans, strict=True))


def _bands(problem: Problem) -> Iterator[_Band]:
    """Row blocks with something to see. Samples whose documents ask for the same keys share one."""
    blocks = [(i0, min(i0 + ROWS, problem.T)) for i0 in range(0, problem.T, ROWS)]
    if problem.start is None or problem.stop is None:
        corners = [[_corners(problem, i0, i1)] for i0, i1 in blocks]
    else:
        corners = _packed(problem, problem.stop, blocks)
    for (i0, i1), of_samples in zip(blocks, corners, strict=True):
        b0 = 0
        for (start, low, kept, high, free), same in groupby(of_samples):
            b1 = b0 + len(list(same))
            near = [(start, kept), (low, high)] if kept < low else [(start, high)]
            spans = tuple((j0, j1) for j0, j1 in near if j1 > j0)
            if spans:
                yield _Band(b0, problem.B if problem.start is None else b1, i0, i1, spans, free)
            b0 = b1


def _corners(problem: Problem, i0: int, i1: int) -> list[int]:
    """For all samples: first key, first key near any row, one past the last sink token seen and the last key seen, and
    how many keys from the first on every row sees."""
    shift, window = problem.S - problem.T, problem.visibility.window
    low, first_high, _ = problem.bounds(i0 + shift)
    _, high, kept = problem.bounds(i1 - 1 + shift)
    return [0, low, kept, max(kept, high), 0 if window is not None else first_high]


def _packed(problem: Problem, stop: Int[Tensor, "B T"], blocks: list[tuple[int, int]]) -> list[list[list[int]]]:
    """The same [blocks B 5] from documents. Those that begin inside the block are near keys, sink tokens and all; only
    the sink tokens of the first may lie apart."""
    start, low, high, kept = problem.row_bounds()
    first = torch.tensor([i0 for i0, _ in blocks], device=problem.device)
    last = torch.tensor([i1 - 1 for _, i1 in blocks], device=problem.device)
    of_first = stop[:, first].long().sub(1).minimum(last)
    free = (high - start)[:, first].masked_fill(start[:, first] != start[:, last], 0)
    if problem.visibility.window is not None:
        free.zero_()
    corners = (start[:, first], low[:, first], kept.gather(1, of_first), high.maximum(kept)[:, last], free)
    return torch.stack(corners, -1).transpose(0, 1).tolist()


def _samples(band: _Band) -> tuple[int, int]:
    return band.b0, band.b1


def _rules(
    problem: Problem, band: _Band, samples: slice, heads: slice, triangles: dict[_Band, Tensor]
) -> Bool[Tensor, "n 1 t columns"]:
    """What the rules hide. Without documents it is the same for all heads: small masks are kept in ``triangles``."""
    if problem.start is not None:
        return _hidden(problem, band, samples).repeat_interleave(problem.G, 0)[heads]
    hidden = triangles.get(band)
    if hidden is None:
        hidden = _hidden(problem, band, slice(0, 1))
        if hidden.shape[-1] <= ROWS:
            triangles[band] = hidden
    return hidden


def _hidden(problem: Problem, band: _Band, samples: slice) -> Bool[Tensor, "b 1 t columns"]:
    """What the rules hide from rows of samples."""
    j = torch.cat([torch.arange(j0, j1, device=problem.device) for j0, j1 in band.spans])[band.edge :]
    return ~problem.row_bounds(samples, slice(band.i0, band.i1)).see(j)[:, None]


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
        self._near: dict[str, tuple[tuple[int, int], Tensor]] = {}

    def fold(self, x: Float[Tensor, "B H T C"]) -> Float[Tensor, "N R T C"]:
        """Heads grouped by the key-value head they share."""
        return x.to(self.problem.dtype).reshape(self.N, self.R, *x.shape[2:])

    def rows(self, x: Float[Tensor, "N R T C"], strip: Strip) -> Float[Tensor, "n rows C"]:
        """The strip's rows, R * t of each key-value head."""
        return x[strip.n0 : strip.n1, :, strip.i0 : strip.i1].reshape(strip.n1 - strip.n0, -1, x.shape[-1])

    def put(self, x: Float[Tensor, "N R T C"], strip: Strip, rows: Float[Tensor, "n rows C"]) -> None:
        """Write the strip's rows back."""
        x[strip.n0 : strip.n1, :, strip.i0 : strip.i1] = rows.view(strip.n1 - strip.n0, self.R, -1, x.shape[-1])

    def keys(self, name: str, strip: Strip) -> Float[Tensor, "n width C"]:
        """The strip's keys ("k") or values ("v")."""
        x = self._of_heads(name, strip)
        parts = [x[:, keys] for _, keys in strip.parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _of_heads(self, name: str, strip: Strip) -> Float[Tensor, "n S C"]:
        """All keys of the strip's heads. Where they lie apart, as models leave them, they are copied once for all
        strips of these heads: every row block reads them again."""
        x, heads = {"k": self.k, "v": self.v}[name], (strip.n0, strip.n1)
        if x[0].is_contiguous() or self.problem.T <= ROWS:
            return x[slice(*heads)]
        held, near = self._near.get(name, (None, x))
        if held != heads:
            near = x[slice(*heads)].contiguous()
            self._near[name] = heads, near
        return near

    def buffer(self, name: str, strip: Strip) -> Float[Tensor, "n rows width"]:
        """Uninitialised room for one value a score of the strip."""
        shape = (strip.n1 - strip.n0, self.R * (strip.i1 - strip.i0), strip.width)
        size = shape[0] * shape[1] * shape[2]
        flat = self._buffers.get(name)
        if flat is None or flat.numel() < size:
            flat = self._buffers[name] = torch.empty(size, dtype=self.problem.dtype, device=self.problem.device)
        return flat[:size].view(shape)

    def scores(
        self,
        q_rows: Float[Tensor, "n rows K"],
        k_strip: Float[Tensor, "n width K"],
        strip: Strip,
        softcap: float | None,
    ) -> Float[Tensor, "n rows width"]:
        """Logits of the strip, -inf where hidden. ``q_rows`` carries the scale, and the soft-cap is in its unit."""
        s = capped_(torch.bmm(q_rows, k_strip.mT, out=self.buffer("scores", strip)), softcap)
        self.hide(s, strip, -torch.inf)
        return s

    def hide(self, x: Float[Tensor, "n rows width"], strip: Strip, value: float) -> None:
        """Overwrite what the strip's rows may not see."""
        if strip.hidden is None and strip.padding is None:
            return
        of_rows = x.view(x.shape[0], self.R, -1, strip.width)
        if strip.padding is not None:
            of_rows.masked_fill_(strip.padding, value)
        if strip.hidden is not None:
            of_rows[..., strip.edge :].masked_fill_(strip.hidden, value)


def capped_(s: Tensor, softcap: float | None) -> Tensor:
    """c tanh(s / c) in place, where there is a soft-cap c."""
    return s if softcap is None else s.div_(softcap).tanh_().mul_(softcap)


def cap_slope(s: Tensor, softcap: float, out: Tensor | None = None) -> Tensor:
    """d (c tanh(x / c)) / dx from its value s: 1 - (s / c)^2, and 0 where s is hidden."""
    slope = torch.clamp(s, min=-softcap, max=softcap, out=out).div_(softcap)
    return slope.mul_(slope).neg_().add_(1.0)
