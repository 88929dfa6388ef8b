"""What the kernels share: where a program's rows and columns lie, loads, scores and the step of an online softmax.

Logits are kept in units of log 2, S' = S log2(e), so that every exponential is an exp2.
"""

from __future__ import annotations

import triton
import triton.language as tl

#: log2(e) and its inverse.
LOG2_E, LN_2 = 1.4426950408889634, 0.6931471805599453


@triton.jit
def load_rows(x, offsets, real, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Rows of ``x`` at the given offsets [n], zeros where they are not real and beyond their width: [n, PADDED]."""
    c = tl.arange(0, PADDED)
    return tl.load(x + offsets[:, None] + c[None, :], mask=real[:, None] & (c < WIDTH)[None, :], other=0.0)


@triton.jit
def store_rows(x, offsets, real, values, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """The inverse of ``load_rows``, in the dtype of ``x``."""
    c = tl.arange(0, PADDED)
    mask = real[:, None] & (c < WIDTH)[None, :]
    tl.store(x + offsets[:, None] + c[None, :], values.to(x.dtype.element_ty), mask=mask)


@triton.jit
def listed(entries, x, count, PER: tl.constexpr, N: tl.constexpr):
    """Elements x to x + N of the listed blocks side by side, PER elements each: their entry, their place within it, and
    whether they are there at all."""
    if PER % N == 0:
        at = tl.arange(0, N)
        entry = tl.load(entries + x // PER) + at * 0
        place = x % PER + at
        there = at >= 0
    else:
        at = x + tl.arange(0, N)
        there = at < count * PER
        entry = tl.load(entries + at // PER, mask=there, other=0)
        place = at % PER
    return entry, place, there


@triton.jit
def absorb(s, v, top, total, out, PRECISION: tl.constexpr):
    """A step of the online softmax: scores s [m, n] and values v [n, c] join a row's maximum, sum and output."""
    highest = tl.maximum(top, tl.max(s, 1))
    base = tl.where(highest == float("-inf"), 0.0, highest)
    a = tl.exp2(s - base[:, None])
    shrink = tl.exp2(top - base)
    total = total * shrink + tl.sum(a, 1)
    out = tl.dot(a.to(v.dtype), v, out * shrink[:, None], input_precision=PRECISION)
    return highest, total, out
