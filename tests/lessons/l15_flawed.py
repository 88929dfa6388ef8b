"""The kernels of lesson 15's exercises, right for MISTAKE = "" and wrong in one known way for every other."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sigmoid_block(x_ptr, out_ptr, n, BLOCK: tl.constexpr, MISTAKE: tl.constexpr = ""):
    program = tl.program_id(1 if MISTAKE == "axis" else 0)
    if MISTAKE == "no program":
        program = 0
    i = program * BLOCK + tl.arange(0, BLOCK)
    there = i < n
    if MISTAKE == "one more":
        there = i <= n
    if MISTAKE == "no load mask":
        x = tl.load(x_ptr + i)
    elif MISTAKE == "undefined":
        x = tl.load(x_ptr + i, mask=there)
        x = x + 0 * tl.sum(x, 0)
    else:
        x = tl.load(x_ptr + i, mask=there, other=0.0)
    if MISTAKE != "half":
        x = x.to(tl.float32)
    y = tl.sigmoid(x)
    if MISTAKE == "sign":
        y = 1 / (1 + tl.exp(x))
    if MISTAKE == "overflow":
        x = 10 * x
        y = (tl.exp(x) / (1 + tl.exp(x))).to(tl.float32)
    if MISTAKE == "identity":
        y = x
    if MISTAKE == "no store mask":
        tl.store(out_ptr + i, y)
    elif MISTAKE == "no store":
        pass
    elif MISTAKE == "shift":
        tl.store(out_ptr + i - 1, y, mask=there)
    else:
        tl.store(out_ptr + i, y, mask=there)


@triton.jit
def gate_tile(
    y_ptr, logit_ptr, out_ptr, T, V, y_t, y_v, logit_t, logit_v, out_t, out_v, BT: tl.constexpr, BV: tl.constexpr,
    MISTAKE: tl.constexpr = "",
):  # fmt: skip
    rows, columns = (1, 0) if MISTAKE == "axes" else (0, 1)
    t = tl.program_id(rows) * BT + tl.arange(0, BT)[:, None]
    v = tl.program_id(columns) * BV + tl.arange(0, BV)[None, :]
    there = (t < T) & (v < V)
    mine = there
    if MISTAKE == "no mask":
        mine = (t < T + BT) & (v < V + BV)
    if MISTAKE == "no row mask":
        mine = (v < V) & (t < T + BT)
    if MISTAKE == "no column mask":
        mine = (t < T) & (v < V + BV)
    y_row, y_column = y_t, y_v
    if MISTAKE == "packed":
        y_row = V
    if MISTAKE == "other strides":
        y_row, y_column = out_t, out_v
    if MISTAKE == "swapped strides":
        y_row, y_column = y_v, y_t
    logit_row, logit_column = logit_t, logit_v
    if MISTAKE == "logit packed":
        logit_row, logit_column = V, 1
    y = tl.load(y_ptr + t * y_row + v * y_column, mask=mine, other=0.0).to(tl.float32)
    logit = tl.load(logit_ptr + t * logit_row + v * logit_column, mask=there, other=0.0).to(tl.float32)
    out = y * tl.sigmoid(logit)
    if MISTAKE == "no gate":
        out = y
    if MISTAKE == "no sigmoid":
        out = y * logit
    tl.store(out_ptr + t * out_t + v * out_v, out, mask=there)


@triton.jit
def online_softmax(score_ptr, value_ptr, out_ptr, S, score_t, BLOCK: tl.constexpr, MISTAKE: tl.constexpr = ""):
    t = tl.program_id(0)
    top, total, acc = 0.0 if MISTAKE == "zero" else -float("inf"), 0.0, 0.0
    for start in range(0, S, BLOCK):
        s = start + tl.arange(0, BLOCK)
        x = tl.load(score_ptr + t * score_t + s, mask=s < S, other=0.0 if MISTAKE == "padding" else -float("inf"))
        value = tl.load(value_ptr + s, mask=s < S, other=0.0)
        higher = tl.maximum(top, tl.max(x, 0))
        if MISTAKE == "no maximum":
            top, higher = 0.0, 0.0
        shrink = tl.exp(higher - top) if MISTAKE == "upside down" and start > 0 else tl.exp(top - higher)
        p = tl.exp(x - higher)
        total = total * (1.0 if MISTAKE in ("sum", "both") else shrink) + tl.sum(p, 0)
        acc = acc * (1.0 if MISTAKE in ("average", "both") else shrink) + tl.sum(p * value, 0)
        if MISTAKE == "last":
            total, acc = tl.sum(p, 0), tl.sum(p * value, 0)
        top = higher
    tl.store(out_ptr + t, acc if MISTAKE == "no division" else acc / total)


@triton.jit
def gated_attention(
    q_ptr, k_ptr, v_ptr, logit_ptr, out_ptr, T, scale, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    MISTAKE: tl.constexpr = "",
):  # fmt: skip
    t = tl.program_id(0) * BM + tl.arange(0, BM)
    d = tl.arange(0, D)
    rows, there = t[:, None] * D + d[None, :], t[:, None] < T
    q = tl.load(q_ptr + rows, mask=there, other=0.0)
    gate = tl.sigmoid(tl.load(logit_ptr + rows, mask=there, other=0.0).to(tl.float32))
    top = tl.full([BM], -float("inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    end = T if MISTAKE in ("no mask", "ahead", "loop, all keys") else tl.minimum(T, (tl.program_id(0) + 1) * BM)
    for start in range(0, end, BN):
        s = start + tl.arange(0, BN)
        keys, known = s[:, None] * D + d[None, :], s[:, None] < T
        k = tl.load(k_ptr + keys, mask=known, other=0.0)
        if MISTAKE == "no key mask":
            v = tl.load(v_ptr + keys)
        elif MISTAKE == "undefined":
            v = tl.load(v_ptr + keys, mask=known)
        else:
            v = tl.load(v_ptr + keys, mask=known, other=0.0)
        if MISTAKE == "value gate":
            v = v * tl.sigmoid(tl.load(logit_ptr + keys, mask=known, other=0.0).to(tl.float32)).to(v.dtype)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (1.0 if MISTAKE == "no scale" else scale)
        seen = s[None, :] <= t[:, None]
        if MISTAKE == "no mask":
            seen = s[None, :] < T
        if MISTAKE == "strict":
            seen = s[None, :] < t[:, None]
        if MISTAKE == "ahead":
            seen = s[None, :] <= t[:, None] + 1
        scores = tl.where(seen & (s[None, :] < T), scores, -float("inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        if MISTAKE == "no maximum":
            top, higher = tl.zeros([BM], tl.float32), tl.zeros([BM], tl.float32)
        shrink = tl.exp(top - higher)
        p = tl.exp(scores - higher[:, None])
        total = total * (1.0 if MISTAKE in ("sum", "both") else shrink) + tl.sum(p, 1)
        kept = acc if MISTAKE in ("average", "both") else acc * shrink[:, None]
        acc = kept + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        if MISTAKE in ("loop", "loop, all keys"):
            acc = acc * gate
        top = higher
    out = acc if MISTAKE == "no division" else acc / total[:, None]
    if MISTAKE == "no sigmoid":
        out = out * tl.load(logit_ptr + rows, mask=there, other=0.0)
    elif MISTAKE not in ("no gate", "loop", "loop, all keys", "value gate"):
        out = out * gate
    if MISTAKE == "no store mask":
        tl.store(out_ptr + rows, out)
    else:
        tl.store(out_ptr + rows, out, mask=there)


@triton.jit
def gate_backward(dout_ptr, y_ptr, logit_ptr, dy_ptr, dlogit_ptr, n, BLOCK: tl.constexpr, MISTAKE: tl.constexpr = ""):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = i < n
    dout = tl.load(dout_ptr + i, mask=there, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + i, mask=there, other=0.0).to(tl.float32)
    g = tl.sigmoid(tl.load(logit_ptr + i, mask=there, other=0.0).to(tl.float32))
    dy, dlogit = dout * g, dout * y * g * (1 - g)
    if MISTAKE == "dy is dout":
        dy = dout
    if MISTAKE == "no slope":
        dlogit = dout * y
    if MISTAKE == "slope g":
        dlogit = dout * y * g
    if MISTAKE == "no y":
        dlogit = dout * g * (1 - g)
    if MISTAKE == "out for y":
        dlogit = dout * y * g * g * (1 - g)
    if MISTAKE == "swapped":
        dy, dlogit = dlogit, dy
    tl.store(dy_ptr + i, dy, mask=there)
    if MISTAKE != "no dlogit":
        tl.store(dlogit_ptr + i, dlogit, mask=there)
