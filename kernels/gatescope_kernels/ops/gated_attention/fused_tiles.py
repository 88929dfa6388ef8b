"""What the fused kernels share: loading tiles, who sees whom, and which tiles of the other side a tile has to visit.

Who sees whom is said twice. A key is seen by one interval of rows, whatever the rule: `rows_that_see` is the mask of
every tile. A row sees up to two intervals of keys, near ones and the sink tokens of a window: `key_tiles` walks them.
"""

from __future__ import annotations

import triton
import triton.language as tl

#: Softmax runs in base 2, which is what the hardware computes: scale carries log2(e).
LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
#: Where a running maximum begins. Finite, so that no difference of two maxima is NaN; no logit is as low.
LOWEST: tl.constexpr = tl.constexpr(-1.0e38)
#: L of a row that is not there: 2^(S - L) is 0, and a product of S - L with 0 is no NaN.
FAR: tl.constexpr = tl.constexpr(1.0e30)
#: Chosen keys that are read together: the fewest columns of a product.
CHOSEN: tl.constexpr = tl.constexpr(16)
#: The first row that sees a key which nobody sees. Beyond every row, and far enough from overflow to add to.
NOBODY: tl.constexpr = tl.constexpr(1 << 30)


@triton.jit
def load_tile(x, first, stop, stride, WIDTH: tl.constexpr, PADDED: tl.constexpr, N: tl.constexpr, EDGE: tl.constexpr):
    """x[first : first + N] as [N PADDED]: zeros beyond WIDTH channels and, at an EDGE, from row ``stop`` on."""
    row, channel = tl.arange(0, N), tl.arange(0, PADDED)
    place = x + first.to(tl.int64) * stride + (row[:, None] * stride + channel[None, :])
    if EDGE:
        return tl.load(place, mask=(first + row < stop)[:, None] & (channel < WIDTH)[None, :], other=0.0)
    if WIDTH < PADDED:
        return tl.load(place, mask=(channel < WIDTH)[None, :] & (row >= 0)[:, None], other=0.0)
    return tl.load(place)


@triton.jit
def store_tile(x, value, first, stop, WIDTH: tl.constexpr, PADDED: tl.constexpr, N: tl.constexpr):
    """x[first : first + N] = value [N PADDED], for a contiguous x of WIDTH channels that ends at row ``stop``."""
    row, channel = tl.arange(0, N), tl.arange(0, PADDED)
    place = x + first.to(tl.int64) * WIDTH + (row[:, None] * WIDTH + channel[None, :])
    tl.store(place, value.to(x.dtype.element_ty), mask=(first + row < stop)[:, None] & (channel < WIDTH)[None, :])


@triton.jit
def gather_rows(x, index, there, stride, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """x[index_n] for each n that is ``there``, else zeros: [N PADDED]."""
    channel = tl.arange(0, PADDED)
    place = x + index.to(tl.int64)[:, None] * stride + channel[None, :]
    return tl.load(place, mask=there[:, None] & (channel < WIDTH)[None, :], other=0.0)


@triton.jit
def rows_that_see(
    j, limit, key_mask, start, stop, T, S, window, sink_tokens, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr
):
    """Rows [first, last) see key j. first is NOBODY for a masked key and for j >= limit."""
    inside = j < limit
    begin, end = tl.zeros_like(j), tl.zeros_like(j) + T
    if start is not None:
        begin = tl.load(start + j, mask=inside, other=0)
        end = tl.load(stop + j, mask=inside, other=0)
    if key_mask is not None:
        inside = inside & (tl.load(key_mask + j, mask=inside, other=0) != 0)
    i = j - (S - T)  # the row that stands at key j
    first, last = begin, end
    if WINDOWED:
        kept = j - begin < sink_tokens
        last = tl.where(kept, end, tl.minimum(end, i + window))
        if not CAUSAL:
            first = tl.where(kept, begin, tl.maximum(begin, i - window + 1))
    if CAUSAL:
        first = tl.maximum(begin, i)
    return tl.where(inside, first, NOBODY), last


@triton.jit
def sees(i, first, last, ENDS: tl.constexpr):
    """Whether rows i see keys seen by [first, last). Without ENDS every key is seen by all rows from ``first`` on."""
    if ENDS:
        return (i >= first) & (i < last)
    return i >= first


@triton.jit
def key_tiles(
    i0, i1, key_mask, start, stop, T, S, window, sink_tokens,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Key tiles that rows i0 .. i1 have to visit, numbered 0 .. tiles - 1 in the order of keys.

    Returns (far, far_tiles, far_stop, low, high, full, edge, tiles): tile x < far_tiles starts at far + x N and ends at
    far_stop at the latest (sink tokens apart from the window), the others start at low + (x - far_tiles) N and end at
    high; every row sees every key of tiles full .. edge - 1.
    """
    p0, p1 = i0 + (S - T), i1 + (S - T)
    begin0, end0, begin1, end1 = i0 * 0, i0 * 0 + S, i0 * 0, i0 * 0 + S
    if start is not None:  # documents lie in order, so the tile's first and last row bound all others
        begin0, end0, begin1, end1 = tl.load(start + i0), tl.load(stop + i0), tl.load(start + i1), tl.load(stop + i1)
    far, far_stop = begin0, begin0
    low, low_of_all, high, high_of_all = begin0, begin1, end1, end0
    if WINDOWED:
        low, low_of_all = tl.maximum(begin0, p0 - window + 1), tl.maximum(begin1, p1 - window + 1)
        far_stop = tl.minimum(tl.minimum(begin0 + sink_tokens, end0), low)
        if not CAUSAL:
            high_of_all = tl.minimum(end0, p0 + window)
            high = tl.maximum(tl.minimum(end1, p1 + window), tl.minimum(end1, begin1 + sink_tokens))
    if CAUSAL:
        high, high_of_all = tl.minimum(end1, p1 + 1), tl.minimum(end0, p0 + 1)
    far_tiles = tl.cdiv(tl.maximum(far_stop - far, 0), N)
    tiles = far_tiles + tl.cdiv(tl.maximum(high - low, 0), N)
    full = tl.minimum(far_tiles + tl.cdiv(tl.maximum(low_of_all - low, 0), N), tiles)
    edge = tl.maximum(far_tiles + tl.maximum(high_of_all - low, 0) // N, full)
    if key_mask is not None:
        full, edge = tiles, tiles
    return far, far_tiles, far_stop, low, high, full, edge, tiles


@triton.jit
def key_tile(x, far, far_tiles, far_stop, low, high, WINDOWED: tl.constexpr, N: tl.constexpr):
    """First key of tile x, and where its keys end."""
    if WINDOWED:
        apart = x < far_tiles
        return tl.where(apart, far + x * N, low + (x - far_tiles) * N), tl.where(apart, far_stop, high)
    return low + x * N, high


@triton.jit
def row_tiles(first, last, N: tl.constexpr, ENDS: tl.constexpr):
    """Row tiles that keys have to visit, from the rows [first, last) that see each of them.

    Returns (low, full, edge, tiles): tile x starts at row low + x N; every key is seen by every row of tiles
    full .. edge - 1. Without ENDS keys are seen to the last row, and what lies beyond it counts as zeros.
    """
    low, low_of_all = tl.min(first, 0), tl.max(first, 0)
    high, high_of_all = tl.max(tl.where(first < last, last, 0), 0), tl.min(last, 0)
    tiles = tl.cdiv(tl.maximum(high - low, 0), N)
    full = tl.minimum(tl.cdiv(low_of_all - low, N), tiles)
    edge = tiles
    if ENDS:
        edge = tl.maximum(tl.maximum(high_of_all - low, 0) // N, full)
    return low, full, edge, tiles


@triton.jit
def load_lse2(lse, i, T):
    """L_i in base 2. A row that sees nothing has 0, for its every A is masked; beyond row T its A is 0."""
    x = tl.load(lse + i, mask=i < T, other=FAR)
    return tl.where(x == -float("inf"), 0.0, x * LOG2E)
