"""The block maximum in Triton: each row's maximum over each key block, kept while the flash pass finds L.

    r_in = max over keys j of block n of S_ij        M_an = max over queries i of block a of exp(r_in - L_i)

r takes T x nS elements a head between the two kernels.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gatescope_kernels.ops.block_sparse_attention.fused_forward import hide
from gatescope_kernels.ops.block_sparse_attention.fused_tiles import load_rows


@triton.jit
def _visit(
    q, k, highest, step, i, real, top, total, block_top, k_row, T, S, scale,
    K: tl.constexpr, KP: tl.constexpr, BLOCK: tl.constexpr, KEYS: tl.constexpr,
    CUT: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of keys joins the rows' maximum and sum, and the maximum of its block, written at the block's end."""
    parts: tl.constexpr = (BLOCK + KEYS - 1) // KEYS
    n = step // parts
    part = step % parts
    place = part * KEYS + tl.arange(0, KEYS)
    j = n * BLOCK + place
    if BLOCK % KEYS != 0:
        j = tl.where(place < BLOCK, j, S)
    keys = load_rows(k, j.to(tl.int64) * k_row, j < S, K, KP)
    s = tl.dot(q, tl.trans(keys), input_precision=PRECISION) * scale
    if CUT:
        s = hide(s, i, j, T, S, CAUSAL)
    tile_top = tl.max(s, 1)
    block_top = tl.where(part == 0, tile_top, tl.maximum(block_top, tile_top))
    tl.store(highest + n.to(tl.int64) * T + i, block_top, mask=real & (part == parts - 1))
    new = tl.maximum(top, tile_top)
    base = tl.where(new == float("-inf"), 0.0, new)
    total = total * tl.exp2(top - base) + tl.sum(tl.exp2(s - base[:, None]), 1)
    return new, total, block_top


@triton.jit
def row_maxima(
    q, k, highest, lse, q_b, q_h, q_i, k_b, k_g, k_j, H, G, T, S, nS, scale,
    K: tl.constexpr, KP: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program computes r' and L' (in units of log 2) of ROWS queries of one head against every key they see.

    ``highest`` is r' [B H nS T]; blocks that the rows of a program do not see are left as they are.
    """
    parts: tl.constexpr = (BLOCK + KEYS - 1) // KEYS
    strips = (T + ROWS - 1) // ROWS
    program = tl.program_id(0).to(tl.int64)
    head = program // strips
    b = head // H
    h = head % H
    i0 = (strips - 1 - program % strips).to(tl.int32) * ROWS
    i = i0 + tl.arange(0, ROWS)
    real = i < T
    q_rows = load_rows(q, b * q_b + h * q_h + i.to(tl.int64) * q_i, real, K, KP)
    k += b * k_b + h // (H // G) * k_g
    highest += head * nS * T
    whole = S // BLOCK
    seen = nS
    if CAUSAL:
        whole = tl.minimum(whole, tl.maximum(i0 + 1 + S - T, 0) // BLOCK)
        seen = tl.minimum(nS, (tl.maximum(i0 + ROWS + S - T, 0) + BLOCK - 1) // BLOCK)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.full([ROWS], 0.0, tl.float32)
    block_top = tl.full([ROWS], float("-inf"), tl.float32)
    for step in range(0, whole * parts):
        top, total, block_top = _visit(
            q_rows, k, highest, step, i, real, top, total, block_top, k_j, T, S, scale,
            K, KP, BLOCK, KEYS, BLOCK % KEYS != 0, CAUSAL, PRECISION,
        )  # fmt: skip
    for step in range(whole * parts, seen * parts):
        top, total, block_top = _visit(
            q_rows, k, highest, step, i, real, top, total, block_top, k_j, T, S, scale,
            K, KP, BLOCK, KEYS, True, CAUSAL, PRECISION,
        )  # fmt: skip
    # A row that sees no key gets L = -inf from its maximum.
    tl.store(lse + head * T + i, top + tl.log2(tl.where(total == 0.0, 1.0, total)), mask=real)


@triton.jit
def block_maxima(
    highest, lse, largest, T, S, nQ, nS,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr, ROWS: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """A program computes M of one query block and BLOCKS key blocks: 0 where no query sees a key, NaN where a query
    that does has one."""
    strips = (nS + BLOCKS - 1) // BLOCKS
    program = tl.program_id(0).to(tl.int64)
    row = program // strips
    head = row // nQ
    a = (row % nQ).to(tl.int32)
    n = (program % strips).to(tl.int32) * BLOCKS + tl.arange(0, BLOCKS)
    highest += head * nS * T
    best = tl.full([BLOCKS], 0.0, tl.float32)
    for x in range(0, BLOCK, ROWS):
        place = x + tl.arange(0, ROWS)
        i = a * BLOCK + place
        sees = (n < nS)[:, None] & ((place < BLOCK) & (i < T))[None, :]
        if CAUSAL:
            sees = sees & (n[:, None] * BLOCK <= i[None, :] + (S - T))
        l = tl.load(lse + head * T + i, mask=(place < BLOCK) & (i < T), other=0.0)
        r = tl.load(highest + n[:, None].to(tl.int64) * T + i[None, :], mask=sees, other=0.0)
        p = tl.exp2(tl.where(sees, r - tl.where(sees, l[None, :], 0.0), float("-inf")))
        # A maximum may drop NaN. No probability is inf, so inf stands for it.
        best = tl.maximum(best, tl.max(tl.where(p == p, p, float("inf")), 1))
    best = tl.where(best == float("inf"), float("nan"), best)
    tl.store(largest + row * nS + n, best, mask=n < nS)
