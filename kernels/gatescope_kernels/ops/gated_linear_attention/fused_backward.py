"""Triton kernels for the gradients inside a chunk, once the gradients of the states are known.

Arrays and letters as in ``fused_pairs``. Readers are queries and, for the delta rule, keys: ``dpairs`` and ``dknown``
are the gradients of their pairs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gatescope_kernels.ops.gated_linear_attention.fused_pairs import (
    between,
    chunk_start,
    doubled,
    load_numbers,
    load_rows,
    own_decays,
    parted,
    store_rows,
    whole_decays,
)
from gatescope_kernels.ops.gated_linear_attention.fused_states import load_padded, load_state


@triton.jit
def store_numbers(x, first, left, numbers, C: tl.constexpr):
    """One number a token."""
    row = tl.arange(0, C)
    tl.store(x + first + row, numbers, mask=row < left)


@triton.jit
def gla_pairs_backward(
    dout,
    u,
    dpairs,
    T,
    V,
    chunks,
    C: tl.constexpr,
    BV: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (chunk):  dP = dO u^T."""
    chunk = tl.program_id(0).to(tl.int64)
    first, left = chunk_start(chunk, chunks, T, C)
    found = tl.zeros([C, C], tl.float32)
    for start in range(0, V, BV):
        value = start + tl.arange(0, BV)
        upstream, u_tile = load_rows(dout, first, left, value, V, C), load_rows(u, first, left, value, V, C)
        found = tl.dot(upstream, tl.trans(u_tile), acc=found, input_precision=PRECISION)
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    tl.store(dpairs + chunk * C * C + (i * C + j), found.to(dpairs.dtype.element_ty))


@triton.jit
def delta_pairs_backward(
    dmissing,
    u,
    v,
    beta,
    known,
    dknown,
    dbeta,
    T,
    V,
    chunks,
    C: tl.constexpr,
    BV: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (chunk):  dP^k = -beta dr u^T,  and of  dbeta_i = dr_i . (v_i - k_since_i S - sum_j P^k_ij u_j)  all but
    the state's part."""
    chunk = tl.program_id(0).to(tl.int64)
    first, left = chunk_start(chunk, chunks, T, C)
    found, own = tl.zeros([C, C], tl.float32), tl.zeros([C], tl.float32)
    for start in range(0, V, BV):
        value = start + tl.arange(0, BV)
        dr, u_tile = load_rows(dmissing, first, left, value, V, C), load_rows(u, first, left, value, V, C)
        found = tl.dot(dr, tl.trans(u_tile), acc=found, input_precision=PRECISION)
        own += tl.sum(dr.to(tl.float32) * load_rows(v, first, left, value, V, C).to(tl.float32), 1)
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    known += chunk * C * C
    dknown += chunk * C * C
    own -= tl.sum(tl.where(i > j, found * tl.load(known + (i * C + j)), 0.0), 1)
    store_numbers(dbeta, first, left, own, C)
    rate = load_numbers(beta, first, left, C)
    tl.store(dknown + (i * C + j), (-rate[:, None] * found).to(dknown.dtype.element_ty))


@triton.jit
def halved_gradients(x, k, dpairs, since, until, dx, dk, level, PRECISION: tl.constexpr):
    """Add what the pairs parted at one level send back to readers and keys."""
    element = dpairs.dtype
    upstream = tl.where(parted(level, dpairs.shape[0]), dpairs, 0.0).to(element)
    readers, writers = (x * tl.exp(since)).to(element), (k * tl.exp(until)).to(element)
    dx += tl.dot(upstream, writers, input_precision=PRECISION) * tl.exp(since)
    dk += tl.dot(tl.trans(upstream), readers, input_precision=PRECISION) * tl.exp(until)
    return dx, dk


@triton.jit
def alike_gradients(x, k, dpairs, decays, dx, dk, PRECISION: tl.constexpr):
    """The same for all levels at once, where all channels decay alike."""
    element = dpairs.dtype
    i, j = tl.arange(0, dpairs.shape[0])[:, None], tl.arange(0, dpairs.shape[0])[None, :]
    upstream = tl.where(i > j, dpairs * decays, 0.0).to(element)
    dx = tl.dot(upstream, k.to(element), acc=dx, input_precision=PRECISION)
    dk = tl.dot(tl.trans(upstream), x.to(element), acc=dk, input_precision=PRECISION)
    return dx, dk


@triton.jit
def store_decays(dg, dlog, passed, part, first, left, channel, K, C: tl.constexpr, WP: tl.constexpr):
    """dg_t = sum of dlog_i over i >= t in the chunk, and S_C . dS, which passes all of them.

    Decays that all channels share get a part from each tile of channels, at ``part`` in dg.
    """
    if WP > 1:
        store_rows(dg, first, left, channel, K, tl.cumsum(dlog, 0, reverse=True) + passed[None, :], C)
    else:
        store_numbers(dg + part, first, left, tl.cumsum(tl.sum(dlog, 1), 0, reverse=True) + tl.sum(passed), C)


@triton.jit
def gla_gradients(
    q,
    k,
    sums,
    dout,
    u,
    dpairs,
    before,
    dstates,
    dq,
    dk,
    dg,
    scale,
    tokens,
    T,
    K,
    V,
    chunks,
    C: tl.constexpr,
    KP: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    LEVELS: tl.constexpr,
    WP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (chunk, tile of channels), with x = scale q, S the state before the chunk and dS the gradient of the one
    after it, S_C:

        dx = dO S^T . D_.0 + halving(dP, k)            dk = u dS^T . D_C. + halving(dP^T, x)
        l_i = x_i . dx_i - k_i . dk_i                  dg_t = sum_{i >= t} l_i + (S_C . dS) summed over values

    where  S_C . dS = D_C0 (S . dS) + sum_j k_j . (u_j dS^T . D_Cj)  has the very terms that l_i holds with a minus,
    and then the diagonal pairs, which no decay touches. Where all channels decay alike, dg is [tiles B H T], to be
    summed over the tiles.
    """
    chunk = tl.program_id(0).to(tl.int64)
    first, left = chunk_start(chunk, chunks, T, C)
    channel = tl.program_id(1) * BK + tl.arange(0, BK)
    x = scale * load_rows(q, first, left, channel, K, C).to(tl.float32)
    key = load_rows(k, first, left, channel, K, C).to(tl.float32)
    upstream = load_padded(dpairs, chunk, C, C)
    dx, dkey = tl.zeros([C, BK], tl.float32), tl.zeros([C, BK], tl.float32)
    if WP > 1:
        since = own_decays(sums, chunk, channel, C, WP)
        until = tl.zeros_like(since)
        for level in range(LEVELS):
            dx, dkey = halved_gradients(x, key, upstream, since, until, dx, dkey, level, PRECISION)
            since, until = doubled(since, until, sums, chunk, channel, level, C, WP)
    else:
        decays, since, until = between(sums, chunk, C, LEVELS)
        dx, dkey = alike_gradients(x, key, upstream, decays, dx, dkey, PRECISION)
    part = tl.program_id(1) * tokens
    read, written = tl.zeros([C, BK], tl.float32), tl.zeros([C, BK], tl.float32)
    passed = tl.zeros([BK], tl.float32)
    for start in range(0, V, BV):
        value = start + tl.arange(0, BV)
        dstate = load_state(dstates, chunk, channel, value, V, KP)
        held = load_state(before, chunk, channel, value, V, KP)
        dout_tile, u_tile = load_rows(dout, first, left, value, V, C), load_rows(u, first, left, value, V, C)
        read = tl.dot(dout_tile, tl.trans(held), acc=read, input_precision=PRECISION)
        written = tl.dot(u_tile, tl.trans(dstate), acc=written, input_precision=PRECISION)
        passed += tl.sum(held.to(tl.float32) * dstate.to(tl.float32), 1)
    dx += read * tl.exp(since)
    written *= tl.exp(until)
    dkey += written
    passed = passed * tl.exp(whole_decays(sums, chunk, channel, C, WP)) + tl.sum(key * written, 0)
    store_decays(dg, x * dx - key * dkey, passed, part, first, left, channel, K, C, WP)
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    own = tl.sum(tl.where(i == j, upstream.to(tl.float32), 0.0), 1)[:, None]
    store_rows(dq, first, left, channel, K, scale * (dx + own * key), C)
    store_rows(dk, first, left, channel, K, dkey + own * x, C)


@triton.jit
def delta_gradients(
    q,
    k,
    sums,
    beta,
    dout,
    u,
    dmissing,
    dpairs,
    dknown,
    before,
    dstates,
    dq,
    dk,
    dg,
    dbeta,
    scale,
    tokens,
    T,
    K,
    V,
    chunks,
    C: tl.constexpr,
    KP: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    LEVELS: tl.constexpr,
    WP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (chunk, tile of channels): as ``gla_gradients``, with the keys as readers whose gradient is dz,

        dz = -beta dr S^T . D_.0 + halving(dP^k, k)    l_i = x_i . dx_i + k_i . dz_i - k_i . dk_i

    and the state's part of dbeta, [tiles B H T]: -k_since_i . (dr S^T)_i.
    """
    chunk = tl.program_id(0).to(tl.int64)
    first, left = chunk_start(chunk, chunks, T, C)
    channel = tl.program_id(1) * BK + tl.arange(0, BK)
    x = scale * load_rows(q, first, left, channel, K, C).to(tl.float32)
    key = load_rows(k, first, left, channel, K, C).to(tl.float32)
    upstream, upstream_known = load_padded(dpairs, chunk, C, C), load_padded(dknown, chunk, C, C)
    dx, dz, dkey = (
        tl.zeros([C, BK], tl.float32),
        tl.zeros([C, BK], tl.float32),
        tl.zeros([C, BK], tl.float32),
    )
    if WP > 1:
        since = own_decays(sums, chunk, channel, C, WP)
        until = tl.zeros_like(since)
        for level in range(LEVELS):
            dx, dkey = halved_gradients(x, key, upstream, since, until, dx, dkey, level, PRECISION)
            dz, dkey = halved_gradients(key, key, upstream_known, since, until, dz, dkey, level, PRECISION)
            since, until = doubled(since, until, sums, chunk, channel, level, C, WP)
    else:
        decays, since, until = between(sums, chunk, C, LEVELS)
        dx, dkey = alike_gradients(x, key, upstream, decays, dx, dkey, PRECISION)
        dz, dkey = alike_gradients(key, key, upstream_known, decays, dz, dkey, PRECISION)
    part = tl.program_id(1) * tokens
    read, known, written = (
        tl.zeros([C, BK], tl.float32),
        tl.zeros([C, BK], tl.float32),
        tl.zeros([C, BK], tl.float32),
    )
    passed = tl.zeros([BK], tl.float32)
    for start in range(0, V, BV):
        value = start + tl.arange(0, BV)
        dstate = load_state(dstates, chunk, channel, value, V, KP)
        held = load_state(before, chunk, channel, value, V, KP)
        dout_tile, u_tile = load_rows(dout, first, left, value, V, C), load_rows(u, first, left, value, V, C)
        dr = load_rows(dmissing, first, left, value, V, C)
        read = tl.dot(dout_tile, tl.trans(held), acc=read, input_precision=PRECISION)
        known = tl.dot(dr, tl.trans(held), acc=known, input_precision=PRECISION)
        written = tl.dot(u_tile, tl.trans(dstate), acc=written, input_precision=PRECISION)
        passed += tl.sum(held.to(tl.float32) * dstate.to(tl.float32), 1)
    rate = load_numbers(beta, first, left, C)[:, None]
    known *= tl.exp(since)
    store_numbers(dbeta + part, first, left, -tl.sum(key * known, 1), C)
    dx += read * tl.exp(since)
    dz -= rate * known
    written *= tl.exp(until)
    dkey += written
    passed = passed * tl.exp(whole_decays(sums, chunk, channel, C, WP)) + tl.sum(key * written, 0)
    dlog = x * dx + key * (dz - dkey)
    store_decays(dg, dlog, passed, part, first, left, channel, K, C, WP)
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    own = tl.sum(tl.where(i == j, upstream.to(tl.float32), 0.0), 1)[:, None]
    store_rows(dq, first, left, channel, K, scale * (dx + own * key), C)
    store_rows(dk, first, left, channel, K, dkey + dz + own * x, C)
