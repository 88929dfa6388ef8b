"""Triton kernels for what happens inside a chunk: decays by halving, products of all pairs, the delta rule's inverse.

Legend: a program works on one chunk of C tokens of one sequence (a batch entry and head); channels come in tiles of BK.
Arrays [B H T .] of callers are rows of tokens: a chunk begins at the row ``first``, and ``left`` rows of its sequence
are left from there. Arrays between the kernels are padded, N chunks, KP channels, and need no masks.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def chunk_start(chunk, chunks, T, C: tl.constexpr):
    """The row of a chunk's first token in arrays of callers [B H T], and how many of its tokens exist."""
    start = (chunk % chunks) * C
    return (chunk // chunks) * T + start, (T - start).to(tl.int32)


@triton.jit
def tile_place(first, left, column, width, C: tl.constexpr):
    """Offset of a tile [C columns] of [rows width] that starts at row ``first``, offsets in it, and what exists."""
    row = tl.arange(0, C)[:, None]
    return first * width, row * width + column[None, :], (row < left) & (column < width)[None, :]


@triton.jit
def load_rows(x, first, left, column, width, C: tl.constexpr):
    """A tile [C columns]; 0 where there is nothing."""
    start, offset, inside = tile_place(first, left, column, width, C)
    return tl.load(x + start + offset, mask=inside, other=0.0)


@triton.jit
def store_rows(x, first, left, column, width, tile, C: tl.constexpr):
    """Write a tile [C columns]."""
    start, offset, inside = tile_place(first, left, column, width, C)
    tl.store(x + start + offset, tile.to(x.dtype.element_ty), mask=inside)


@triton.jit
def load_numbers(x, first, left, C: tl.constexpr):
    """One number a token [C], 0 where there is no token."""
    row = tl.arange(0, C)
    return tl.load(x + first + row, mask=row < left, other=0.0).to(tl.float32)


@triton.jit
def gla_sums(
    g,
    sums,
    T,
    chunks,
    W: tl.constexpr,
    WP: tl.constexpr,
    BW: tl.constexpr,
    C: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """Program (chunk, tile of channels): log decays of the blocks of 1, 2, 4 ... C tokens of a chunk, each added up.

    Those of the 2^level tokens from j 2^level on are row  2C - (2C >> level) + j  of ``sums`` [N 2C WP].
    """
    chunk = tl.program_id(0).to(tl.int64)
    first, left = chunk_start(chunk, chunks, T, C)
    channel = tl.program_id(1) * BW + tl.arange(0, BW)
    held = load_rows(g, first, left, channel, W, C).to(tl.float32)
    sums += chunk * 2 * C * WP
    for level in tl.static_range(LEVELS + 1):
        row = 2 * C - (2 * C >> level) + tl.arange(0, C >> level)
        tl.store(sums + (row[:, None] * WP + channel[None, :]), held)
        if level < LEVELS:
            held = tl.sum(tl.reshape(held, (C >> (level + 1), 2, BW)), 1)


@triton.jit
def own_decays(sums, chunk, channel, C: tl.constexpr, WP: tl.constexpr):
    """Log decays [C BK]; or [C 1] that all channels share, which is WP = 1 and one ``channel``."""
    token = tl.arange(0, C)[:, None]
    return tl.load(sums + chunk * 2 * C * WP + (token * WP + channel[None, :]))


@triton.jit
def whole_decays(sums, chunk, channel, C: tl.constexpr, WP: tl.constexpr):
    """Log decays of all tokens of a chunk, added up [BK]."""
    return tl.load(sums + (chunk * 2 * C + 2 * C - 2) * WP + (channel if WP > 1 else 0 * channel))


@triton.jit
def doubled(since, until, sums, chunk, channel, level, C: tl.constexpr, WP: tl.constexpr):
    """From blocks of m = 2^level tokens to blocks of 2m: each half learns what the other one adds up to.

    since  log decay from the start of a token's block through the token
    until  log decay after the token to the end of its block
    """
    token = tl.arange(0, C)[:, None]
    row = 2 * C - (2 * C >> level) + ((token >> level) ^ 1)
    partner = tl.load(sums + chunk * 2 * C * WP + (row * WP + channel[None, :]))
    second = ((token >> level) & 1) == 1
    return tl.where(second, since + partner, since), tl.where(second, until, until + partner)


@triton.jit
def parted(level, C: tl.constexpr):
    """[C C]: the pairs i > j with i in the second and j in the first half of a block of 2^(level + 1) tokens."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    return (((i ^ j) >> level) == 1) & (i > j)


@triton.jit
def between(sums, chunk, C: tl.constexpr, LEVELS: tl.constexpr):
    """Where all channels decay alike: D_ij = prod of the decays of tokens j+1 ... i for i > j, else 0 [C C]; and the
    log decays since the start and until the end of the chunk [C 1]."""
    channel = tl.arange(0, 1)
    since = own_decays(sums, chunk, channel, C, 1)
    until = tl.zeros_like(since)
    decays = tl.zeros([C, C], tl.float32)
    for level in range(LEVELS):
        decays = tl.where(parted(level, C), tl.exp(since + tl.trans(until)), decays)
        since, until = doubled(since, until, sums, chunk, channel, level, C, 1)
    return decays, since, until


@triton.jit
def gla_pairs(
    x,
    k,
    sums,
    pairs,
    x_since,
    k_until,
    total,
    scale,
    T,
    K,
    chunks,
    C: tl.constexpr,
    KP: tl.constexpr,
    WP: tl.constexpr,
    BK: tl.constexpr,
    LEVELS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (chunk): readers x (queries, or keys for the delta rule) against the keys of their own chunk.

        P_ij = scale sum_k x_ik k_jk D_ij,k        for i > j;  P_ii = scale x_i . k_i;  0 above
        x_since_i = scale x_i . D_i0,   k_until_j = k_j . D_Cj,   total = D_C0

    The last two are written where their arrays are given.
    """
    chunk = tl.program_id(0).to(tl.int64)
    first, left = chunk_start(chunk, chunks, T, C)
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    products = tl.zeros([C, C], tl.float32)
    own = tl.zeros([C], tl.float32)
    if WP == 1:
        decays, since, until = between(sums, chunk, C, LEVELS)
    for start in range(0, KP, BK):
        channel = start + tl.arange(0, BK)
        x_tile, k_tile = load_rows(x, first, left, channel, K, C), load_rows(k, first, left, channel, K, C)
        element = k_tile.dtype
        x_wide, k_wide = x_tile.to(tl.float32), k_tile.to(tl.float32)
        own += tl.sum(x_wide * k_wide, 1)
        if WP == 1:
            products = tl.dot(x_tile, tl.trans(k_tile), acc=products, input_precision=PRECISION)
        else:
            since = own_decays(sums, chunk, channel, C, WP)
            until = tl.zeros_like(since)
            for level in range(LEVELS):
                readers = (x_wide * tl.exp(since)).to(element)
                writers = (k_wide * tl.exp(until)).to(element)
                met = tl.dot(readers, tl.trans(writers), acc=products, input_precision=PRECISION)
                products = tl.where(parted(level, C), met, products)
                since, until = doubled(since, until, sums, chunk, channel, level, C, WP)
        place = chunk * C * KP + (i * KP + channel[None, :])
        tl.store(x_since + place, (x_wide * (scale * tl.exp(since))).to(element))
        if k_until is not None:
            tl.store(k_until + place, (k_wide * tl.exp(until)).to(element))
            whole = whole_decays(sums, chunk, channel, C, WP)
            tl.store(total + chunk * KP + channel, tl.exp(whole))
    if WP == 1:
        products = tl.where(i > j, products * decays, 0.0)
    products = scale * tl.where(i == j, own[:, None], products)
    tl.store(pairs + chunk * C * C + (i * C + j), products.to(pairs.dtype.element_ty))


@triton.jit
def load_block(known, beta, first, left, row, column, C: tl.constexpr, BI: tl.constexpr):
    """-A [BI BI] of the tokens from ``row`` and ``column`` on; A_ij = beta_i P_ij, 0 unless i > j."""
    i, j = row + tl.arange(0, BI), column + tl.arange(0, BI)
    rate = tl.load(beta + first + i, mask=i < left, other=0.0).to(tl.float32)
    pairs = tl.load(known + (i[:, None] * C + j[None, :]))
    return tl.where(i[:, None] > j[None, :], -rate[:, None] * pairs, 0.0)


@triton.jit
def halved_inverse(a, LEVELS: tl.constexpr, PRECISION: tl.constexpr):
    """(I - a)^-1 for a strictly lower triangular ``a``. With M the inverse of the diagonal blocks of m tokens and a_m
    the pairs parted between them, that of the blocks of 2m is M + M a_m M, since M a_m M a_m = 0."""
    C: tl.constexpr = a.shape[0]
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    found = tl.where(i == j, 1.0, tl.where(parted(0, C), a, 0.0))
    for level in range(1, LEVELS):
        outer = tl.dot(found, tl.where(parted(level, C), a, 0.0), input_precision=PRECISION)
        found = tl.dot(outer, found, acc=found, input_precision=PRECISION)
    return found


@triton.jit
def store_block(inverse, row, column, tile, C: tl.constexpr, BI: tl.constexpr):
    """Write a block [BI BI] of a chunk's matrix, what is below its diagonal."""
    i, j = row + tl.arange(0, BI)[:, None], column + tl.arange(0, BI)[None, :]
    tl.store(inverse + (i * C + j), tl.where(i > j, tile, 0.0).to(inverse.dtype.element_ty))


@triton.jit
def delta_inverse(
    known,
    beta,
    inverse,
    T,
    chunks,
    C: tl.constexpr,
    BI: tl.constexpr,
    LEVELS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (chunk): M = (I + A)^-1 - I with A_ij = beta_i P_ij for i > j, P the pairs of keys with keys, by halving.

    Without its ones on the diagonal, rounding M touches only what tokens take from one another.
    The levels before the last work inside the two blocks of BI = C / 2 tokens; BI = C is one block for all.
    """
    chunk = tl.program_id(0).to(tl.int64)
    first, left = chunk_start(chunk, chunks, T, C)
    known += chunk * C * C
    inverse += chunk * C * C
    early = halved_inverse(load_block(known, beta, first, left, 0, 0, C, BI), LEVELS, PRECISION)
    store_block(inverse, 0, 0, early, C, BI)
    if BI < C:
        late = halved_inverse(load_block(known, beta, first, left, BI, BI, C, BI), LEVELS, PRECISION)
        store_block(inverse, BI, BI, late, C, BI)
        corner = load_block(known, beta, first, left, BI, 0, C, BI)
        corner = tl.dot(tl.dot(late, corner, input_precision=PRECISION), early, input_precision=PRECISION)
        store_block(inverse, BI, 0, corner, C, BI)
        store_block(inverse, 0, BI, tl.zeros_like(corner), C, BI)
