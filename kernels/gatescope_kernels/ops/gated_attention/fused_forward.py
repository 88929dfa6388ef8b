"""Kernels of the forward: attention with its gate and row statistics in one pass, key mass in a second."""

from __future__ import annotations

import triton
import triton.language as tl

from gatescope_kernels.ops.gated_attention.fused_tiles import (
    CHOSEN,
    LN2,
    LOG2E,
    LOWEST,
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
def _visit_keys(
    acc, m, l, u, top, q_tile, i, x0, x1, far, far_tiles, far_stop, low, high,
    k, v, k_t, v_t, key_mask, start, stop, T, S, scale2, window, sink_tokens,
    K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr, N: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, EDGE: tl.constexpr,
    ENTROPY: tl.constexpr, TOP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Key tiles x0 .. x1 - 1 into the running row values: acc = E V, m, l = sum E, u = sum E log2 E, E = 2^(S - m).

    ``top`` is the maximum over keys alone, apart from m only where a sink began it. EDGE tiles are masked.
    """
    for x in range(x0, x1):
        j0, limit = key_tile(x, far, far_tiles, far_stop, low, high, WINDOWED, N)
        s = tl.dot(q_tile, tl.trans(load_tile(k, j0, S, k_t, K, KP, N, EDGE)), input_precision=PRECISION)
        if EDGE:
            first, last = rows_that_see(
                j0 + tl.arange(0, N), limit, key_mask, start, stop, T, S, window, sink_tokens, CAUSAL, WINDOWED
            )
            visible = sees(i[:, None], first[None, :], last[None, :], WINDOWED or start is not None)
            s = tl.where(visible, s, -float("inf"))
        highest = tl.max(s, 1) * scale2
        raised = tl.maximum(m, highest)
        d = s * scale2 - raised[:, None]
        e = tl.exp2(d)
        fall = m - raised
        shrink = tl.exp2(fall)
        if ENTROPY:
            if EDGE:
                d = tl.where(visible, d, 0.0)
            u = shrink * (u + l * fall) + tl.sum(e * d, 1)
        if TOP:
            top = tl.maximum(top, highest)
        l = l * shrink + tl.sum(e, 1)
        v_tile = load_tile(v, j0, S, v_t, V, VP, N, EDGE)
        acc = tl.dot(e.to(v_tile.dtype), v_tile, acc * shrink[:, None], input_precision=PRECISION)
        m = raised
    return acc, m, l, u, top


@triton.jit
def attend_rows(
    q, k, v, gate, sink, key_mask, start, stop, chosen,
    out, plain, lse, entropy, max_logit, mass, sink_mass,
    q_b, q_h, q_t, k_b, k_g, k_t, v_b, v_g, v_t, gate_b, gate_h, gate_t,
    H, T, S, chosen_count, scale, window, sink_tokens,
    R: tl.constexpr, K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr,
    ELEMENTWISE: tl.constexpr, ADD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program attends for M rows of one head: online softmax over key tiles, statistics, gate.

        m' = max(m, S)        l' = 2^(m - m') l + sum 2^(S - m')
        out = gate sum A v    u' = 2^(m - m') (u + l (m - m')) + sum 2^(S - m') (S - m')    entropy = log l - u / l

    plain is out before the gate. Results that are None are not made. The last rows go first: causal ones are longest.
    """
    count = tl.cdiv(T, M)
    bh = (tl.program_id(0) // count).to(tl.int64)
    i0 = (count - 1 - tl.program_id(0) % count) * M
    b, h = bh // H, bh % H
    scale2 = scale * LOG2E
    i = i0 + tl.arange(0, M)
    q_tile = load_tile(q + b * q_b + h * q_h, i0, T, q_t, K, KP, M, True)
    k += b * k_b + h // R * k_g
    v += b * v_b + h // R * v_g
    if key_mask is not None:
        key_mask += b * S
    if start is not None:
        start += b * S
        stop += b * S

    m = tl.zeros((M,), tl.float32) + LOWEST
    l, u = tl.zeros((M,), tl.float32), tl.zeros((M,), tl.float32)
    if sink is not None:
        z = tl.load(sink + h).to(tl.float32) * LOG2E
        m, l = l + tl.where(z < LOWEST, LOWEST, z), l + 1.0
    top = tl.zeros((M,), tl.float32) + LOWEST
    acc = tl.zeros((M, VP), tl.float32)
    far, far_tiles, far_stop, low, high, full, edge, tiles = key_tiles(
        i0, tl.minimum(i0 + M, T) - 1, key_mask, start, stop, T, S, window, sink_tokens, CAUSAL, WINDOWED, N
    )
    TOP: tl.constexpr = max_logit is not None and sink is not None
    if WINDOWED or start is not None or key_mask is not None:
        acc, m, l, u, top = _visit_keys(
            acc, m, l, u, top, q_tile, i, 0, full, far, far_tiles, far_stop, low, high,
            k, v, k_t, v_t, key_mask, start, stop, T, S, scale2, window, sink_tokens,
            K, V, KP, VP, N, CAUSAL, WINDOWED, True, entropy is not None, TOP, PRECISION,
        )  # fmt: skip
    if key_mask is None:
        acc, m, l, u, top = _visit_keys(
            acc, m, l, u, top, q_tile, i, full, edge, far, far_tiles, far_stop, low, high,
            k, v, k_t, v_t, key_mask, start, stop, T, S, scale2, window, sink_tokens,
            K, V, KP, VP, N, CAUSAL, WINDOWED, False, entropy is not None, TOP, PRECISION,
        )  # fmt: skip
        acc, m, l, u, top = _visit_keys(
            acc, m, l, u, top, q_tile, i, edge, tiles, far, far_tiles, far_stop, low, high,
            k, v, k_t, v_t, key_mask, start, stop, T, S, scale2, window, sink_tokens,
            K, V, KP, VP, N, CAUSAL, WINDOWED, True, entropy is not None, TOP, PRECISION,
        )  # fmt: skip

    real, row = i < T, bh * T + i
    empty = l == 0.0
    total = tl.where(empty, 1.0, l)
    lse2 = m + tl.log2(total)
    tl.store(lse + row, tl.where(empty, -float("inf"), lse2 * LN2), mask=real)
    if entropy is not None:
        spread = tl.log2(total) - u / total
        tl.store(entropy + row, tl.where(spread < 0.0, 0.0, spread * LN2), mask=real)
    if max_logit is not None:
        highest = top if TOP else m
        highest = tl.where(highest == LOWEST, -float("inf"), highest * LN2)
        tl.store(max_logit + row, tl.where(l == l, highest, l), mask=real)  # a maximum passes NaN over
    if sink_mass is not None:
        tl.store(sink_mass + row, tl.exp2(z - lse2), mask=real)

    y = acc * (1.0 / total)[:, None]
    if plain is not None:
        store_tile(plain + bh * T * V, y, i0, T, V, VP, M)
    if gate is not None:
        gate += b * gate_b + h * gate_h
        if ELEMENTWISE:
            g = load_tile(gate, i0, T, gate_t, V, VP, M, True).to(tl.float32)
        else:
            g = tl.load(gate + i.to(tl.int64) * gate_t, mask=real, other=0.0).to(tl.float32)[:, None]
        y = y + g if ADD else y * g
    store_tile(out + bh * T * V, y, i0, T, V, VP, M)

    if mass is not None and start is None:
        for n0 in range(0, chosen_count, CHOSEN):
            n = n0 + tl.arange(0, CHOSEN)
            key = tl.load(chosen + n, mask=n < chosen_count, other=0)
            first, last = rows_that_see(key, S, key_mask, start, stop, T, S, window, sink_tokens, CAUSAL, WINDOWED)
            k_rows = gather_rows(k, key, n < chosen_count, k_t, K, KP)
            bits = tl.dot(q_tile, tl.trans(k_rows), input_precision=PRECISION) * scale2 - lse2[:, None]
            a = tl.exp2(tl.where(sees(i[:, None], first[None, :], last[None, :], WINDOWED), bits, -float("inf")))
            place = mass + row[:, None] * chosen_count + n[None, :]
            tl.store(place, a, mask=real[:, None] & (n < chosen_count)[None, :])
    if mass is not None and start is not None:  # rows of several documents each have their own chosen keys
        own = tl.load(start + i, mask=real, other=0)
        for n in range(chosen_count):
            key = own + tl.load(chosen + n)
            first, last = rows_that_see(key, S, key_mask, start, stop, T, S, window, sink_tokens, CAUSAL, WINDOWED)
            seen = real & (i >= first) & (i < last)
            k_rows = gather_rows(k, key, seen, k_t, K, KP)
            bits = tl.sum(q_tile.to(tl.float32) * k_rows.to(tl.float32), 1) * scale2 - lse2
            tl.store(mass + row * chosen_count + n, tl.exp2(tl.where(seen, bits, -float("inf"))), mask=real)


@triton.jit
def _visit_rows(
    received, k_tile, first, last, low, x0, x1, q, lse, q_t, T, scale2,
    K: tl.constexpr, KP: tl.constexpr, M: tl.constexpr,
    EDGE: tl.constexpr, ENDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """received_j += sum_i A_ij over row tiles x0 .. x1 - 1."""
    for x in range(x0, x1):
        i0 = low + x * M
        i = i0 + tl.arange(0, M)
        s = tl.dot(k_tile, tl.trans(load_tile(q, i0, T, q_t, K, KP, M, True)), input_precision=PRECISION)
        bits = s * scale2 - load_lse2(lse, i, T)[None, :]
        if EDGE:
            bits = tl.where(sees(i[None, :], first[:, None], last[:, None], ENDS), bits, -float("inf"))
        received += tl.sum(tl.exp2(bits), 1)
    return received


@triton.jit
def key_mass_pass(
    q, k, lse, key_mask, start, stop, key_mass,
    q_b, q_h, q_t, k_b, k_g, k_t, H, T, S, scale, window, sink_tokens,
    R: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program sums what N keys of one head receive, key_mass_j = sum_i 2^(S_ij - L_i), over tiles of M rows."""
    count = tl.cdiv(S, N)
    bh = (tl.program_id(0) // count).to(tl.int64)
    j0 = tl.program_id(0) % count * N
    b, h = bh // H, bh % H
    scale2 = scale * LOG2E
    j = j0 + tl.arange(0, N)
    if key_mask is not None:
        key_mask += b * S
    if start is not None:
        start += b * S
        stop += b * S
    first, last = rows_that_see(j, S, key_mask, start, stop, T, S, window, sink_tokens, CAUSAL, WINDOWED)
    low, full, edge, tiles = row_tiles(first, last, M, WINDOWED or start is not None)
    k_tile = load_tile(k + b * k_b + h // R * k_g, j0, S, k_t, K, KP, N, True)
    q += b * q_b + h * q_h
    lse += bh * T
    ENDS: tl.constexpr = WINDOWED or start is not None
    received = tl.zeros((N,), tl.float32)
    received = _visit_rows(
        received, k_tile, first, last, low, 0, full, q, lse, q_t, T, scale2, K, KP, M, True, ENDS, PRECISION
    )
    received = _visit_rows(
        received, k_tile, first, last, low, full, edge, q, lse, q_t, T, scale2, K, KP, M, False, ENDS, PRECISION
    )
    if ENDS:
        received = _visit_rows(
            received, k_tile, first, last, low, edge, tiles, q, lse, q_t, T, scale2, K, KP, M, True, ENDS, PRECISION
        )
    tl.store(key_mass + bh * S + j, received, mask=j < S)
