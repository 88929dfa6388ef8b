"""Block-sparse attention, forward, in Triton: an online softmax over the listed key blocks and no others."""

from __future__ import annotations

import triton
import triton.language as tl

from gatescope_kernels.ops.block_sparse_attention.fused_tiles import absorb, listed, load_rows, store_rows


@triton.jit
def query_rows(row, part, M, T, nQ, BLOCK: tl.constexpr, TILE: tl.constexpr, R: tl.constexpr, ROWS: tl.constexpr):
    """Where the rows of part ``part`` of a query block lie: batch, mask, heads [ROWS], queries [ROWS], which are real.

    ``row`` counts the query blocks of all batches and masks. The R heads that share a mask are stacked, TILE rows each.
    """
    a = row % nQ
    m = row // nQ % M
    r = part * ROWS + tl.arange(0, ROWS)
    i = a * BLOCK + r % TILE
    return row // nQ // M, m, m * R + r // TILE, i, (r < R * TILE) & (i < T)


@triton.jit
def listed_keys(entries, x, count, S, BLOCK: tl.constexpr, KEYS: tl.constexpr):
    """Keys x to x + KEYS of the listed key blocks side by side, S or more where there is none."""
    entry, place, there = listed(entries, x, count, BLOCK, KEYS)
    return tl.where(there, entry * BLOCK + place, S)


@triton.jit
def hide(s, i, j, T, S, CAUSAL: tl.constexpr):
    """-inf on scores of keys j that query i may not read, or that are none."""
    if CAUSAL:
        return tl.where((j[None, :] < S) & (j[None, :] <= i[:, None] + (S - T)), s, float("-inf"))
    else:
        return tl.where(j[None, :] < S, s, float("-inf"))


@triton.jit
def _read(
    q, k, v, entries, x, count, i, top, total, out, k_row, v_row, T, S, scale,
    K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr, BLOCK: tl.constexpr, KEYS: tl.constexpr,
    CUT: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of keys joins the rows."""
    j = listed_keys(entries, x, count, S, BLOCK, KEYS)
    real = j < S
    keys = load_rows(k, j.to(tl.int64) * k_row, real, K, KP)
    s = tl.dot(q, tl.trans(keys), input_precision=PRECISION) * scale
    if CUT:
        s = hide(s, i, j, T, S, CAUSAL)
    return absorb(s, load_rows(v, j.to(tl.int64) * v_row, real, V, VP), top, total, out, PRECISION)


@triton.jit
def sparse_forward(
    q, k, v, entries, ends, out, lse,
    q_b, q_h, q_i, k_b, k_g, k_j, v_b, v_g, v_j,
    M, G, T, S, nQ, nS, scale,
    K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr,
    BLOCK: tl.constexpr, TILE: tl.constexpr, R: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program computes ROWS rows of one query block: Y_i = sum_j exp(S_ij - L_i) v_j and L_i log2(e).

    First the listed key blocks that hide nothing, then the rest. The last query blocks, which read most under
    causality, start first.
    """
    parts: tl.constexpr = (R * TILE + ROWS - 1) // ROWS
    program = tl.program_id(0).to(tl.int64)
    row = program // parts
    row += nQ - 1 - 2 * (row % nQ)
    b, m, h, i, real = query_rows(row, program % parts, M, T, nQ, BLOCK, TILE, R, ROWS)
    g = m // (M // G)
    q_rows = load_rows(q, b * q_b + h * q_h + i * q_i, real, K, KP)
    k += b * k_b + g * k_g
    v += b * v_b + g * v_g
    entries += row * nS
    count = tl.load(ends + 2 * row + 1)
    edge = tl.load(ends + 2 * row) * BLOCK // KEYS * KEYS
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.full([ROWS], 0.0, tl.float32)
    y = tl.full([ROWS, VP], 0.0, tl.float32)
    for x in range(0, edge, KEYS):
        top, total, y = _read(
            q_rows, k, v, entries, x, count, i, top, total, y, k_j, v_j, T, S, scale,
            K, V, KP, VP, BLOCK, KEYS, False, CAUSAL, PRECISION,
        )  # fmt: skip
    for x in range(edge, count * BLOCK, KEYS):
        top, total, y = _read(
            q_rows, k, v, entries, x, count, i, top, total, y, k_j, v_j, T, S, scale,
            K, V, KP, VP, BLOCK, KEYS, True, CAUSAL, PRECISION,
        )  # fmt: skip
    empty = total == 0.0
    total = tl.where(empty, 1.0, total)
    y = tl.where(empty[:, None], 0.0, y / total[:, None])
    at = (b * (M * R) + h) * T + i
    store_rows(out, at * V, real, y, V, VP)
    tl.store(lse + at, top + tl.log2(total), mask=real)  # top is -inf on an empty row
