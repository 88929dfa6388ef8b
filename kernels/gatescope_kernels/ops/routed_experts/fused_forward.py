"""Forward kernels of routed experts: gate and up product with SwiGLU, down product, combine.

Legend: n token, r row (one assignment, expert by expert), e expert, d channel, f hidden channel.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gatescope_kernels.ops.routed_experts.fused_blocks import block_of, sigmoid, store_block, tile_of


@triton.jit
def swiglu_kernel(
    x,
    x_n,
    x_d,
    token,
    table,
    w_gate,
    g_e,
    g_d,
    g_f,
    w_up,
    u_e,
    u_d,
    u_f,
    gate,
    up,
    hidden,
    D,
    F,
    KEEP: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A program makes one tile of rows x one block of hidden channels.

    g_r = x_n W_gate[e]        u_r = x_n W_up[e]        h_r = silu(g_r) * u_r        n = token[r]

    KEEP also writes g and u, for the backward.
    """
    blocks = tl.cdiv(F, COLUMNS)
    e, first, stop = tile_of(table, tl.program_id(0) // blocks)
    if first >= stop:
        return
    r = first + tl.arange(0, ROWS)
    f = (tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    real_r, real_f = r < stop, f < F
    n = tl.load(token + r, mask=real_r, other=0)
    g = tl.zeros((ROWS, COLUMNS), tl.float32)
    u = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, D, INNER):
        d = (start + tl.arange(0, INNER)).to(tl.int64)
        real_d = d < D
        rows = block_of(x, n, d, x_n, x_d, real_r, real_d)  # [ROWS INNER]
        g = tl.dot(rows, block_of(w_gate + e * g_e, d, f, g_d, g_f, real_d, real_f), g, input_precision=PRECISION)
        u = tl.dot(rows, block_of(w_up + e * u_e, d, f, u_d, u_f, real_d, real_f), u, input_precision=PRECISION)
    if KEEP:
        store_block(gate, r, f, F, 1, real_r, real_f, g)
        store_block(up, r, f, F, 1, real_r, real_f, u)
    store_block(hidden, r, f, F, 1, real_r, real_f, g * sigmoid(g) * u)


@triton.jit
def down_kernel(
    hidden,
    table,
    w_down,
    w_e,
    w_f,
    w_d,
    out,
    D,
    F,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A program makes one tile of rows x one block of channels:    o_r = h_r W_down[e]"""
    blocks = tl.cdiv(D, COLUMNS)
    e, first, stop = tile_of(table, tl.program_id(0) // blocks)
    if first >= stop:
        return
    r = first + tl.arange(0, ROWS)
    d = (tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    real_r, real_d = r < stop, d < D
    o = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, F, INNER):
        f = (start + tl.arange(0, INNER)).to(tl.int64)
        real_f = f < F
        h = block_of(hidden, r, f, F, 1, real_r, real_f)  # [ROWS INNER]
        o = tl.dot(h, block_of(w_down + e * w_e, f, d, w_f, w_d, real_f, real_d), o, input_precision=PRECISION)
    store_block(out, r, d, D, 1, real_r, real_d, o)


@triton.jit
def combine_kernel(
    rows,
    row,
    weight,
    out,
    N,
    D,
    k,
    WEIGHTED: tl.constexpr,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A program makes TOKENS tokens x one block of channels:    y_n = sum_j w_nj rows[row[n, j]]

    The order of the sum is that of j, whatever runs first. Without WEIGHTED, w is 1.
    """
    blocks = tl.cdiv(D, COLUMNS)
    n = tl.program_id(0).to(tl.int64) // blocks * TOKENS + tl.arange(0, TOKENS)
    d = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    real_n, real_d = n < N, d < D
    y = tl.zeros((TOKENS, COLUMNS), tl.float32)
    for j in range(k):
        r = tl.load(row + n * k + j, mask=real_n, other=0)
        term = block_of(rows, r, d, D, 1, real_n, real_d).to(tl.float32)
        if WEIGHTED:
            term *= tl.load(weight + n * k + j, mask=real_n, other=0.0).to(tl.float32)[:, None]
        y += term
    store_block(out, n, d, D, 1, real_n, real_d, y)
