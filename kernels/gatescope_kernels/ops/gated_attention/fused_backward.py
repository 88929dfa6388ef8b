"""Kernels of the backward. Each result has one writer, so sums have one order: no atomics. See the README."""

from __future__ import annotations

import triton
import triton.language as tl

from gatescope_kernels.ops.gated_attention.fused_tiles import (
    CHOSEN,
    LN2,
    LOG2E,
    gather_rows,
    key_tile,
    key_tiles,
    load_lse2,
    load_tile,
    row_tiles,
    rows_that_see,
    sees,
    store_tile,
)


@triton.jit
def row_terms(
    d_out, gate, y, lse, entropy, sink, d_lse, d_entropy, chosen_terms, mean_d_keys, d_sink_mass,
    a, d_y, d_gate, d_sink,
    do_b, do_h, do_t, gate_b, gate_h, gate_t, H, T, chosen_count,
    V: tl.constexpr, VP: tl.constexpr, M: tl.constexpr, ELEMENTWISE: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """A program gathers all that the gradients of M rows share.

        dY = dO gate        dgate = dO Y        a = dL - dH H - D
        D = dY.Y + sum_s A_s dm_s + sum_j A_j dc_j + A_sink dsink_mass
        dz = A_sink (dsink_mass + a - dH log A_sink)

    gate is None for an added gate, which changes none of it. GATED: y holds gate Y, and then dO.(gate Y) is dY.Y.
    """
    count = tl.cdiv(T, M)
    bh = (tl.program_id(0) // count).to(tl.int64)
    i0 = tl.program_id(0) % count * M
    b, h = bh // H, bh % H
    i = i0 + tl.arange(0, M)
    real, row = i < T, bh * T + i
    upstream = load_tile(d_out + b * do_b + h * do_h, i0, T, do_t, V, VP, M, True).to(tl.float32)
    y_tile = load_tile(y + bh * T * V, i0, T, V, V, VP, M, True).to(tl.float32)
    received = upstream
    if gate is not None:
        gate += b * gate_b + h * gate_h
        if ELEMENTWISE:
            g = load_tile(gate, i0, T, gate_t, V, VP, M, True).to(tl.float32)
        else:
            g = tl.load(gate + i.to(tl.int64) * gate_t, mask=real, other=0.0).to(tl.float32)[:, None]
        received = upstream * g
        store_tile(d_y + bh * T * V, received, i0, T, V, VP, M)
        if d_gate is not None:
            if ELEMENTWISE:
                store_tile(d_gate + bh * T * V, upstream * y_tile, i0, T, V, VP, M)
            else:
                tl.store(d_gate + row, tl.sum(upstream * y_tile, 1).to(d_gate.dtype.element_ty), mask=real)
    total = -tl.sum((upstream if GATED else received) * y_tile, 1)
    logs = tl.load(lse + row, mask=real, other=0.0)
    if d_lse is not None:
        total += tl.where(logs == -float("inf"), 0.0, tl.load(d_lse + row, mask=real, other=0.0))
    if d_entropy is not None:
        d_h = tl.load(d_entropy + row, mask=real, other=0.0)
        total -= d_h * tl.load(entropy + row, mask=real, other=0.0)
    if chosen_terms is not None:
        for n in range(chosen_count):
            total -= tl.load(chosen_terms + row * chosen_count + n, mask=real, other=0.0)
    if mean_d_keys is not None:
        total -= tl.load(mean_d_keys + row, mask=real, other=0.0)
    if sink is not None:
        log_a = tl.load(sink + h).to(tl.float32) - logs
        a_sink = tl.exp2(tl.where(real, log_a * LOG2E, 0.0))
        through = tl.zeros((M,), tl.float32)
        if d_sink_mass is not None:
            through += tl.load(d_sink_mass + row, mask=real, other=0.0)
            total -= a_sink * through
        through += total
        if d_entropy is not None:
            through -= d_h * log_a
        tl.store(d_sink + row, a_sink * through, mask=real)
    tl.store(a + row, total, mask=real)


@triton.jit
def survey_keys(
    q, k, lse, d_keys, key_mask, start, stop, mean, top_keys,
    q_b, q_h, q_t, k_b, k_g, k_t, H, T, S, scale, window, sink_tokens,
    R: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program looks for what the gradients of M rows of one head must know of all their keys before they begin.

    mean_i = sum_j A_ij dc_j, which key mass adds to D; top_keys_i, the first key with the largest logit, -1 for none
    """
    count = tl.cdiv(T, M)
    bh = (tl.program_id(0) // count).to(tl.int64)
    i0 = (count - 1 - tl.program_id(0) % count) * M
    b, h = bh // H, bh % H
    i = i0 + tl.arange(0, M)
    scale2 = scale * LOG2E
    q_tile = load_tile(q + b * q_b + h * q_h, i0, T, q_t, K, KP, M, True)
    k += b * k_b + h // R * k_g
    if key_mask is not None:
        key_mask += b * S
    if start is not None:
        start += b * S
        stop += b * S
    lse2 = load_lse2(lse + bh * T, i, T)
    total, top = tl.zeros((M,), tl.float32), tl.zeros((M,), tl.float32) - float("inf")
    top_key = tl.zeros((M,), tl.int32) - 1
    far, far_tiles, far_stop, low, high, _, _, tiles = key_tiles(
        i0, tl.minimum(i0 + M, T) - 1, key_mask, start, stop, T, S, window, sink_tokens, CAUSAL, WINDOWED, N
    )
    for x in range(tiles):
        j0, limit = key_tile(x, far, far_tiles, far_stop, low, high, WINDOWED, N)
        j = j0 + tl.arange(0, N)
        first, last = rows_that_see(j, limit, key_mask, start, stop, T, S, window, sink_tokens, CAUSAL, WINDOWED)
        visible = sees(i[:, None], first[None, :], last[None, :], WINDOWED or start is not None)
        s = tl.dot(q_tile, tl.trans(load_tile(k, j0, S, k_t, K, KP, N, True)), input_precision=PRECISION)
        bits = tl.where(visible, s * scale2 - lse2[:, None], -float("inf"))
        if d_keys is not None:
            total += tl.sum(tl.exp2(bits) * tl.load(d_keys + bh * S + j, mask=j < S, other=0.0)[None, :], 1)
        if top_keys is not None:
            highest, place = tl.max(bits, 1, return_indices=True)
            top_key = tl.where(highest > top, j0 + place, top_key)
            top = tl.maximum(top, highest)
    if d_keys is not None:
        tl.store(mean + bh * T + i, total, mask=i < T)
    if top_keys is not None:
        tl.store(top_keys + bh * T + i, top_key, mask=i < T)


@triton.jit
def query_gradient(
    q, k, v, d_y, lse, a, d_entropy, d_keys, d_max, top_keys, chosen_terms, chosen, key_mask, start, stop, dq,
    q_b, q_h, q_t, k_b, k_g, k_t, v_b, v_g, v_t, dy_b, dy_h, dy_t,
    H, T, S, chosen_count, scale, window, sink_tokens,
    R: tl.constexpr, K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program computes dq of M rows of one head, walking the keys they see.

    dS_ij = A_ij (dY_i.v_j + dc_j + a_i - dH_i log A_ij) + dM_i [j = top_i]
    dq_i  = scale (sum_j dS_ij k_j + sum_s A_is dm_is k_s)          s: the chosen keys
    """
    count = tl.cdiv(T, M)
    bh = (tl.program_id(0) // count).to(tl.int64)
    i0 = (count - 1 - tl.program_id(0) % count) * M
    b, h = bh // H, bh % H
    i = i0 + tl.arange(0, M)
    real, row = i < T, bh * T + i
    scale2 = scale * LOG2E
    q_tile = load_tile(q + b * q_b + h * q_h, i0, T, q_t, K, KP, M, True)
    dy_tile = load_tile(d_y + b * dy_b + h * dy_h, i0, T, dy_t, V, VP, M, True)
    k += b * k_b + h // R * k_g
    v += b * v_b + h // R * v_g
    if key_mask is not None:
        key_mask += b * S
    if start is not None:
        start += b * S
        stop += b * S
    lse2 = load_lse2(lse + bh * T, i, T)
    a_rows = tl.load(a + row, mask=real, other=0.0)
    if d_entropy is not None:
        d_bits = tl.load(d_entropy + row, mask=real, other=0.0) * LN2
    if d_max is not None:
        d_top = tl.load(d_max + row, mask=real, other=0.0)
        top_key = tl.load(top_keys + row, mask=real, other=-1)
    acc = tl.zeros((M, KP), tl.float32)
    far, far_tiles, far_stop, low, high, _, _, tiles = key_tiles(
        i0, tl.minimum(i0 + M, T) - 1, key_mask, start, stop, T, S, window, sink_tokens, CAUSAL, WINDOWED, N
    )
    for x in range(tiles):
        j0, limit = key_tile(x, far, far_tiles, far_stop, low, high, WINDOWED, N)
        j = j0 + tl.arange(0, N)
        first, last = rows_that_see(j, limit, key_mask, start, stop, T, S, window, sink_tokens, CAUSAL, WINDOWED)
        visible = sees(i[:, None], first[None, :], last[None, :], WINDOWED or start is not None)
        k_tile = load_tile(k, j0, S, k_t, K, KP, N, True)
        v_tile = load_tile(v, j0, S, v_t, V, VP, N, True)
        bits = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * scale2 - lse2[:, None]
        p = tl.exp2(tl.where(visible, bits, -float("inf")))
        g = tl.dot(dy_tile, tl.trans(v_tile), input_precision=PRECISION) + a_rows[:, None]
        if d_keys is not None:
            g += tl.load(d_keys + bh * S + j, mask=j < S, other=0.0)[None, :]
        if d_entropy is not None:
            g -= d_bits[:, None] * bits
        ds = p * g
        if d_max is not None:
            ds += tl.where(visible & (j[None, :] == top_key[:, None]), d_top[:, None], 0.0)
        acc = tl.dot(ds.to(k_tile.dtype), k_tile, acc, input_precision=PRECISION)
    if chosen_terms is not None and start is None:
        for n0 in range(0, chosen_count, CHOSEN):
            n = n0 + tl.arange(0, CHOSEN)
            there = n < chosen_count
            place = chosen_terms + row[:, None] * chosen_count + n[None, :]
            terms = tl.load(place, mask=real[:, None] & there[None, :], other=0.0)
            k_rows = gather_rows(k, tl.load(chosen + n, mask=there, other=0), there, k_t, K, KP)
            acc = tl.dot(terms.to(k_rows.dtype), k_rows, acc, input_precision=PRECISION)
    if chosen_terms is not None and start is not None:
        own = tl.load(start + i, mask=real, other=0)
        for n in range(chosen_count):
            term = tl.load(chosen_terms + row * chosen_count + n, mask=real, other=0.0)
            k_rows = gather_rows(k, own + tl.load(chosen + n), term != 0.0, k_t, K, KP)
            acc += term[:, None] * k_rows.to(tl.float32)
    store_tile(dq + bh * T * K, acc * scale, i0, T, K, KP, M)


@triton.jit
def key_gradient(
    q, k, v, d_y, lse, a, d_entropy, d_keys, d_max, top_keys, chosen_terms, chosen, key_mask, start, stop, dk, dv,
    q_b, q_h, q_t, k_b, k_g, k_t, v_b, v_g, v_t, dy_b, dy_h, dy_t,
    H, T, S, chosen_count, scale, window, sink_tokens,
    R: tl.constexpr, K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program computes dk and dv of N keys of one key-value head, walking the rows of its R query heads.

    dv_j = sum_i A_ij dY_i        dk_j = scale sum_i (dS_ij + sum_s A_is dm_is [j = s]) q_i

    Score tiles are [N M], keys first. Rows beyond T have q = 0, dY = 0, A = 0, so only keys are masked.
    """
    count = tl.cdiv(S, N)
    bg = (tl.program_id(0) // count).to(tl.int64)
    j0 = tl.program_id(0) % count * N
    b, g0 = bg // (H // R), bg % (H // R) * R
    j = j0 + tl.arange(0, N)
    scale2 = scale * LOG2E
    if key_mask is not None:
        key_mask += b * S
    if start is not None:
        start += b * S
        stop += b * S
    first, last = rows_that_see(j, S, key_mask, start, stop, T, S, window, sink_tokens, CAUSAL, WINDOWED)
    low, _, _, tiles = row_tiles(first, last, M, WINDOWED or start is not None)
    k_tile = load_tile(k + b * k_b + g0 // R * k_g, j0, S, k_t, K, KP, N, True)
    v_tile = load_tile(v + b * v_b + g0 // R * v_g, j0, S, v_t, V, VP, N, True)
    dk_acc, dv_acc = tl.zeros((N, KP), tl.float32), tl.zeros((N, VP), tl.float32)
    for x in range(R * tiles):
        h = g0 + x // tiles
        bh = b * H + h
        i0 = low + x % tiles * M
        i = i0 + tl.arange(0, M)
        q_tile = load_tile(q + b * q_b + h * q_h, i0, T, q_t, K, KP, M, True)
        dy_tile = load_tile(d_y + b * dy_b + h * dy_h, i0, T, dy_t, V, VP, M, True)
        lse2 = load_lse2(lse + bh * T, i, T)
        visible = sees(i[None, :], first[:, None], last[:, None], WINDOWED or start is not None)
        bits = tl.dot(k_tile, tl.trans(q_tile), input_precision=PRECISION) * scale2 - lse2[None, :]
        p = tl.exp2(tl.where(visible, bits, -float("inf")))
        dv_acc = tl.dot(p.to(dy_tile.dtype), dy_tile, dv_acc, input_precision=PRECISION)
        g = tl.dot(v_tile, tl.trans(dy_tile), input_precision=PRECISION)
        g += tl.load(a + bh * T + i, mask=i < T, other=0.0)[None, :]
        if d_keys is not None:
            g += tl.load(d_keys + bh * S + j, mask=j < S, other=0.0)[:, None]
        if d_entropy is not None:
            g -= (tl.load(d_entropy + bh * T + i, mask=i < T, other=0.0) * LN2)[None, :] * bits
        ds = p * g
        if d_max is not None:
            top_key = tl.load(top_keys + bh * T + i, mask=i < T, other=-1)
            d_top = tl.load(d_max + bh * T + i, mask=i < T, other=0.0)
            ds += tl.where(j[:, None] == top_key[None, :], d_top[None, :], 0.0)
        dk_acc = tl.dot(ds.to(q_tile.dtype), q_tile, dk_acc, input_precision=PRECISION)
    if chosen_terms is not None:
        begin = tl.zeros_like(j)
        if start is not None:
            begin = tl.load(start + j, mask=j < S, other=0)
        for n in range(chosen_count):
            key = tl.load(chosen + n)
            if tl.max(((j - begin == key) & (j < S)).to(tl.int32), 0) > 0:
                for x in range(R * tiles):
                    h = g0 + x // tiles
                    i0 = low + x % tiles * M
                    i = i0 + tl.arange(0, M)
                    place = tl.zeros_like(i) + key
                    if start is not None:
                        place += tl.load(start + i, mask=i < T, other=0)
                    row = (b * H + h) * T + i
                    term = tl.load(chosen_terms + row * chosen_count + n, mask=i < T, other=0.0)
                    q_tile = load_tile(q + b * q_b + h * q_h, i0, T, q_t, K, KP, M, True)
                    terms = tl.where(j[:, None] == place[None, :], term[None, :], 0.0)
                    dk_acc = tl.dot(terms.to(q_tile.dtype), q_tile, dk_acc, input_precision=PRECISION)
    store_tile(dk + bg * S * K, dk_acc * scale, j0, S, K, KP, N)
    store_tile(dv + bg * S * V, dv_acc, j0, S, V, VP, N)
