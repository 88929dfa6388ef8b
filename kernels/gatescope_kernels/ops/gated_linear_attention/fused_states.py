"""Triton kernels along the sequence: the state carried from chunk to chunk, its gradient carried back, the outputs.

Arrays and letters as in ``fused_pairs``. A state is [KP V]: a program of the sequential kernels keeps all rows and BV
columns of it in registers. ``before`` holds the state before each chunk, [N KP V].
"""

from __future__ import annotations

import triton
import triton.language as tl

from gatescope_kernels.ops.gated_linear_attention.fused_pairs import (
    chunk_start,
    load_numbers,
    load_rows,
    store_rows,
)


@triton.jit
def load_padded(x, chunk, C: tl.constexpr, width: tl.constexpr):
    """[C width] of a padded array."""
    row, column = tl.arange(0, C)[:, None], tl.arange(0, width)[None, :]
    return tl.load(x + chunk * C * width + (row * width + column))


@triton.jit
def load_state(states, chunk, channel, value, V, KP: tl.constexpr):
    """A tile of the state of a chunk."""
    place = states + chunk * KP * V + (channel[:, None] * V + value[None, :])
    return tl.load(place, mask=(value < V)[None, :], other=0.0)


@triton.jit
def store_state(states, chunk, channel, value, V, tile, KP: tl.constexpr):
    """Write a tile of the state of a chunk."""
    place = states + chunk * KP * V + (channel[:, None] * V + value[None, :])
    tl.store(place, tile.to(states.dtype.element_ty), mask=(value < V)[None, :])


@triton.jit
def gla_states(
    v,
    k_until,
    total,
    state,
    before,
    final,
    T,
    K,
    V,
    chunks,
    C: tl.constexpr,
    KP: tl.constexpr,
    BV: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (sequence, tile of values), chunk after chunk:  S <- total . S + k_until^T v."""
    sequence = tl.program_id(0).to(tl.int64)
    value = tl.program_id(1) * BV + tl.arange(0, BV)
    channel = tl.arange(0, KP)
    offset = channel[:, None] * V + value[None, :]
    inside = (channel < K)[:, None] & (value < V)[None, :]
    held = tl.load(state + sequence * K * V + offset, mask=inside, other=0.0).to(tl.float32)
    for n in range(chunks):
        chunk = sequence * chunks + n
        first, left = chunk_start(chunk, chunks, T, C)
        store_state(before, chunk, channel, value, V, held, KP)
        u = load_rows(v, first, left, value, V, C)
        keys = load_padded(k_until, chunk, C, KP)
        decay = tl.load(total + chunk * KP + channel)
        held = tl.dot(tl.trans(keys), u, acc=held * decay[:, None], input_precision=PRECISION)
    tl.store(final + sequence * K * V + offset, held, mask=inside)


@triton.jit
def delta_states(
    v,
    beta,
    inverse,
    k_since,
    k_until,
    total,
    state,
    before,
    u,
    final,
    T,
    K,
    V,
    chunks,
    C: tl.constexpr,
    KP: tl.constexpr,
    BV: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (sequence, tile of values), chunk after chunk:

    u = (I + M) beta (v - k_since S),   S <- total . S + k_until^T u
    """
    sequence = tl.program_id(0).to(tl.int64)
    value = tl.program_id(1) * BV + tl.arange(0, BV)
    channel = tl.arange(0, KP)
    offset = channel[:, None] * V + value[None, :]
    inside = (channel < K)[:, None] & (value < V)[None, :]
    held = tl.load(state + sequence * K * V + offset, mask=inside, other=0.0).to(tl.float32)
    element = v.dtype.element_ty
    for n in range(chunks):
        chunk = sequence * chunks + n
        first, left = chunk_start(chunk, chunks, T, C)
        store_state(before, chunk, channel, value, V, held, KP)
        readers = load_padded(k_since, chunk, C, KP)
        known = tl.dot(readers, held.to(element), input_precision=PRECISION)
        rate = load_numbers(beta, first, left, C)
        wanted = load_rows(v, first, left, value, V, C).to(tl.float32)
        missing = rate[:, None] * (wanted - known)
        others = load_padded(inverse, chunk, C, C)
        u_tile = tl.dot(others, missing.to(element), acc=missing, input_precision=PRECISION).to(element)
        store_rows(u, first, left, value, V, u_tile, C)
        keys = load_padded(k_until, chunk, C, KP)
        decay = tl.load(total + chunk * KP + channel)
        held = tl.dot(tl.trans(keys), u_tile, acc=held * decay[:, None], input_precision=PRECISION)
    tl.store(final + sequence * K * V + offset, held, mask=inside)


@triton.jit
def gla_outputs(
    pairs,
    u,
    q_since,
    before,
    out,
    T,
    V,
    chunks,
    C: tl.constexpr,
    KP: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (chunk, tile of values):  O = q_since S + P u."""
    chunk = tl.program_id(0).to(tl.int64)
    first, left = chunk_start(chunk, chunks, T, C)
    value = tl.program_id(1) * BV + tl.arange(0, BV)
    token = tl.arange(0, C)[:, None]
    q_since += chunk * C * KP
    found = tl.zeros([C, BV], tl.float32)
    for start in range(0, KP, BK):
        channel = start + tl.arange(0, BK)
        held = load_state(before, chunk, channel, value, V, KP)
        readers = tl.load(q_since + (token * KP + channel[None, :]))
        found = tl.dot(readers, held, acc=found, input_precision=PRECISION)
    u_tile = load_rows(u, first, left, value, V, C)
    found = tl.dot(load_padded(pairs, chunk, C, C), u_tile, acc=found, input_precision=PRECISION)
    store_rows(out, first, left, value, V, found, C)


@triton.jit
def gla_states_backward(
    dout,
    dfinal,
    pairs,
    q_since,
    k_until,
    total,
    dv,
    dstates,
    dstate,
    T,
    K,
    V,
    chunks,
    C: tl.constexpr,
    KP: tl.constexpr,
    BV: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (sequence, tile of values), from the last chunk to the first, dS the gradient of the state after it:

    dv = P^T dO + k_until dS,   dS <- total . dS + q_since^T dO
    """
    sequence = tl.program_id(0).to(tl.int64)
    value = tl.program_id(1) * BV + tl.arange(0, BV)
    channel = tl.arange(0, KP)
    offset = channel[:, None] * V + value[None, :]
    inside = (channel < K)[:, None] & (value < V)[None, :]
    held = tl.load(dfinal + sequence * K * V + offset, mask=inside, other=0.0).to(tl.float32)
    element = dout.dtype.element_ty
    for step in range(chunks):
        chunk = sequence * chunks + chunks - 1 - step
        first, left = chunk_start(chunk, chunks, T, C)
        store_state(dstates, chunk, channel, value, V, held, KP)
        upstream = load_rows(dout, first, left, value, V, C)
        du = tl.dot(tl.trans(load_padded(pairs, chunk, C, C)), upstream, input_precision=PRECISION)
        keys = load_padded(k_until, chunk, C, KP)
        du = tl.dot(keys, held.to(element), acc=du, input_precision=PRECISION)
        store_rows(dv, first, left, value, V, du, C)
        decay = tl.load(total + chunk * KP + channel)
        readers = load_padded(q_since, chunk, C, KP)
        held = tl.dot(tl.trans(readers), upstream, acc=held * decay[:, None], input_precision=PRECISION)
    tl.store(dstate + sequence * K * V + offset, held.to(dstate.dtype.element_ty), mask=inside)


@triton.jit
def delta_states_backward(
    dout,
    dfinal,
    pairs,
    beta,
    inverse,
    q_since,
    k_since,
    k_until,
    total,
    dmissing,
    dv,
    dstates,
    dstate,
    T,
    K,
    V,
    chunks,
    C: tl.constexpr,
    KP: tl.constexpr,
    BV: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Program (sequence, tile of values), from the last chunk to the first, dS the gradient of the state after it:

    dr = (I + M)^T (P^T dO + k_until dS),   dv = beta dr,   dS <- total . dS + q_since^T dO - k_since^T dv
    """
    sequence = tl.program_id(0).to(tl.int64)
    value = tl.program_id(1) * BV + tl.arange(0, BV)
    channel = tl.arange(0, KP)
    offset = channel[:, None] * V + value[None, :]
    inside = (channel < K)[:, None] & (value < V)[None, :]
    held = tl.load(dfinal + sequence * K * V + offset, mask=inside, other=0.0).to(tl.float32)
    element = dout.dtype.element_ty
    for step in range(chunks):
        chunk = sequence * chunks + chunks - 1 - step
        first, left = chunk_start(chunk, chunks, T, C)
        store_state(dstates, chunk, channel, value, V, held, KP)
        upstream = load_rows(dout, first, left, value, V, C)
        du = tl.dot(tl.trans(load_padded(pairs, chunk, C, C)), upstream, input_precision=PRECISION)
        keys = load_padded(k_until, chunk, C, KP)
        du = tl.dot(keys, held.to(element), acc=du, input_precision=PRECISION)
        others = load_padded(inverse, chunk, C, C)
        dr = tl.dot(tl.trans(others), du.to(element), acc=du, input_precision=PRECISION)
        store_rows(dmissing, first, left, value, V, dr, C)
        rate = load_numbers(beta, first, left, C)
        taken = rate[:, None] * dr
        store_rows(dv, first, left, value, V, taken, C)
        decay = tl.load(total + chunk * KP + channel)
        held = tl.dot(
            tl.trans(load_padded(q_since, chunk, C, KP)),
            upstream,
            acc=held * decay[:, None],
            input_precision=PRECISION,
        )
        readers = load_padded(k_since, chunk, C, KP)
        held = tl.dot(tl.trans(readers), (-taken).to(element), acc=held, input_precision=PRECISION)
    tl.store(dstate + sequence * K * V + offset, held.to(dstate.dtype.element_ty), mask=inside)
