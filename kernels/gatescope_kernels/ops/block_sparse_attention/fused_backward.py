"""Block-sparse attention, backward, in Triton: dq over the keys a query block reads, dk and dv over its readers.

    D_i = sum_c dY_ic Y_ic - dL_i       dA = dY V^T       dS_ij = A_ij (dA_ij - D_i)       A_ij = exp(S_ij - L_i)

No two programs write one place, so nothing is added atomically and results repeat to the bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gatescope_kernels.ops.block_sparse_attention.fused_forward import hide, listed_keys, query_rows
from gatescope_kernels.ops.block_sparse_attention.fused_tiles import listed, load_rows, store_rows


@triton.jit
def _pull(
    q, dy, l, d, k, v, entries, x, count, i, dq, k_row, v_row, T, S, scale,
    K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr, BLOCK: tl.constexpr, KEYS: tl.constexpr,
    CUT: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq += dS K over one tile of keys."""
    j = listed_keys(entries, x, count, S, BLOCK, KEYS)
    real = j < S
    keys = load_rows(k, j.to(tl.int64) * k_row, real, K, KP)
    s = tl.dot(q, tl.trans(keys), input_precision=PRECISION) * scale
    if CUT:
        s = hide(s, i, j, T, S, CAUSAL)
    da = tl.dot(dy, tl.trans(load_rows(v, j.to(tl.int64) * v_row, real, V, VP)), input_precision=PRECISION)
    ds = tl.exp2(s - l[:, None]) * (da - d[:, None])
    return tl.dot(ds.to(keys.dtype), keys, dq, input_precision=PRECISION)


@triton.jit
def sparse_backward_queries(
    q, k, v, entries, ends, out, lse, dout, dlse, dq, delta,
    q_b, q_h, q_i, k_b, k_g, k_j, v_b, v_g, v_j, dout_b, dout_h, dout_i,
    M, G, T, S, nQ, nS, scale, natural_scale,
    K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr,
    BLOCK: tl.constexpr, TILE: tl.constexpr, R: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program computes D and dq = scale dS K of ROWS rows of one query block; its key blocks come as in the forward.

    ``dlse`` may be None. A row that reads nothing has D = 0, whatever comes down to its -inf.
    """
    parts: tl.constexpr = (R * TILE + ROWS - 1) // ROWS
    program = tl.program_id(0).to(tl.int64)
    row = program // parts
    row += nQ - 1 - 2 * (row % nQ)
    b, m, h, i, real = query_rows(row, program % parts, M, T, nQ, BLOCK, TILE, R, ROWS)
    g = m // (M // G)
    at = (b * (M * R) + h) * T + i
    q_rows = load_rows(q, b * q_b + h * q_h + i * q_i, real, K, KP)
    dy = load_rows(dout, b * dout_b + h * dout_h + i * dout_i, real, V, VP)
    l = tl.load(lse + at, mask=real, other=float("inf"))
    empty = l == float("-inf")
    l = tl.where(empty, float("inf"), l)
    d = tl.sum(dy.to(tl.float32) * load_rows(out, at * V, real, V, VP).to(tl.float32), 1)
    if dlse is not None:
        d -= tl.load(dlse + at, mask=real, other=0.0)
    d = tl.where(empty, 0.0, d)
    tl.store(delta + at, d, mask=real)
    k += b * k_b + g * k_g
    v += b * v_b + g * v_g
    entries += row * nS
    count = tl.load(ends + 2 * row + 1)
    edge = tl.load(ends + 2 * row) * BLOCK // KEYS * KEYS
    dq_rows = tl.full([ROWS, KP], 0.0, tl.float32)
    for x in range(0, edge, KEYS):
        dq_rows = _pull(
            q_rows, dy, l, d, k, v, entries, x, count, i, dq_rows, k_j, v_j, T, S, scale,
            K, V, KP, VP, BLOCK, KEYS, False, CAUSAL, PRECISION,
        )  # fmt: skip
    for x in range(edge, count * BLOCK, KEYS):
        dq_rows = _pull(
            q_rows, dy, l, d, k, v, entries, x, count, i, dq_rows, k_j, v_j, T, S, scale,
            K, V, KP, VP, BLOCK, KEYS, True, CAUSAL, PRECISION,
        )  # fmt: skip
    store_rows(dq, at * K, real, dq_rows * natural_scale, K, KP)


@triton.jit
def _push(
    q, dout, lse, delta, entries, x, count, g, j, keys, values, dk, dv, q_h, q_i, dout_h, dout_i,
    M, G, T, S, nQ, scale,
    K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr,
    BLOCK: tl.constexpr, TILE: tl.constexpr, R: tl.constexpr, ROWS: tl.constexpr,
    CUT: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dv += A^T dY and dk += dS^T Q over one tile of rows; scores lie keys first."""
    entry, r, there = listed(entries, x, count, R * TILE, ROWS)
    i = entry % nQ * BLOCK + r % TILE
    h = (g * (M // G) + entry // nQ) * R + r // TILE
    real = there & (i < T)
    q_rows = load_rows(q, h * q_h + i.to(tl.int64) * q_i, real, K, KP)
    dy = load_rows(dout, h * dout_h + i.to(tl.int64) * dout_i, real, V, VP)
    at = h * T + i
    l = tl.load(lse + at, mask=real, other=float("inf"))
    l = tl.where(l == float("-inf"), float("inf"), l)
    s = tl.dot(keys, tl.trans(q_rows), input_precision=PRECISION) * scale
    if CUT:
        visible = j[:, None] < S
        if CAUSAL:
            visible = visible & (j[:, None] <= i[None, :] + (S - T))
        s = tl.where(visible, s, float("-inf"))
    a = tl.exp2(s - l[None, :])
    dv = tl.dot(a.to(dy.dtype), dy, dv, input_precision=PRECISION)
    da = tl.dot(values, tl.trans(dy), input_precision=PRECISION)
    ds = a * (da - tl.load(delta + at, mask=real, other=0.0)[None, :])
    dk = tl.dot(ds.to(q_rows.dtype), q_rows, dk, input_precision=PRECISION)
    return dk, dv


@triton.jit
def sparse_backward_keys(
    q, k, v, entries, ends, lse, dout, delta, dk, dv,
    q_b, q_h, q_i, k_b, k_g, k_j, v_b, v_g, v_j, dout_b, dout_h, dout_i,
    M, G, T, S, nQ, nS, scale, natural_scale,
    K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr,
    BLOCK: tl.constexpr, TILE: tl.constexpr, R: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program computes dk = scale dS^T Q and dv = A^T dY of KEYS keys of one key block.

    It visits the query blocks that read the key block under any mask of the key-value head: those that are cut first,
    then the rest. The first key blocks of all heads, which rules keep for every query, are long and start first.
    """
    parts: tl.constexpr = (BLOCK + KEYS - 1) // KEYS
    program = tl.program_id(0).to(tl.int64)
    turn = program // parts
    heads = tl.num_programs(0) // parts // nS
    others = turn - heads
    width = tl.maximum(nS - 1, 1)
    row = tl.where(turn < heads, turn * nS, others // width * nS + 1 + others % width)
    place = program % parts * KEYS + tl.arange(0, KEYS)
    j = row % nS * BLOCK + place
    g = row // nS % G
    b = row // nS // G
    real = (place < BLOCK) & (j < S)
    keys = load_rows(k, b * k_b + g * k_g + j * k_j, real, K, KP)
    values = load_rows(v, b * v_b + g * v_g + j * v_j, real, V, VP)
    # Padding of the tile is hidden as keys beyond the last are.
    j = tl.where(real, j, S).to(tl.int32)
    q += b * q_b
    dout += b * dout_b
    lse += b * M * R * T
    delta += b * M * R * T
    entries += row * (M // G * nQ)
    count = tl.load(ends + 2 * row + 1)
    end = count * (R * TILE)
    edge = tl.minimum((tl.load(ends + 2 * row) * (R * TILE) + ROWS - 1) // ROWS * ROWS, end)
    dk_rows = tl.full([KEYS, KP], 0.0, tl.float32)
    dv_rows = tl.full([KEYS, VP], 0.0, tl.float32)
    for x in range(0, edge, ROWS):
        dk_rows, dv_rows = _push(
            q, dout, lse, delta, entries, x, count, g, j, keys, values, dk_rows, dv_rows, q_h, q_i, dout_h, dout_i,
            M, G, T, S, nQ, scale, K, V, KP, VP, BLOCK, TILE, R, ROWS, True, CAUSAL, PRECISION,
        )  # fmt: skip
    for x in range(edge, end, ROWS):
        dk_rows, dv_rows = _push(
            q, dout, lse, delta, entries, x, count, g, j, keys, values, dk_rows, dv_rows, q_h, q_i, dout_h, dout_i,
            M, G, T, S, nQ, scale, K, V, KP, VP, BLOCK, TILE, R, ROWS, BLOCK % KEYS != 0, CAUSAL, PRECISION,
        )  # fmt: skip
    at = (b * G + g) * S + j
    store_rows(dk, at * K, real, dk_rows * natural_scale, K, KP)
    store_rows(dv, at * V, real, dv_rows, V, VP)
