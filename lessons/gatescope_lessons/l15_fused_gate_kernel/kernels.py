"""The kernels that this lesson watches. Importing them imports Triton: `interpreter()` comes first."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gate_tile(
    y_ptr, logit_ptr, out_ptr, T, V, y_t, y_v, l_t, l_v, o_t, o_v, BT: tl.constexpr, BV: tl.constexpr,
    FLAW: tl.constexpr = "none",
):  # fmt: skip
    """out = y sigmoid(logit), a tile a program; ``FLAW`` names a mistake that it makes on purpose."""
    step_t = BT // 2 if FLAW == "overlap" else BT
    t = tl.program_id(0) * step_t + tl.arange(0, BT)[:, None]
    v = tl.program_id(1) * BV + tl.arange(0, BV)[None, :]
    there = (t < T) & (v < V)
    y_there = (t < T + BT) & (v < V + BV) if FLAW == "no mask" else there
    row = V if FLAW == "stride" else y_t
    y = tl.load(y_ptr + t * row + v * y_v, mask=y_there, other=0.0)
    logit = tl.load(logit_ptr + t * l_t + v * l_v, mask=there, other=0.0)
    out = y.to(tl.float32) * tl.sigmoid(logit.to(tl.float32))
    tl.store(out_ptr + t * o_t + v * o_v, out, mask=y_there)


@triton.jit
def sigmoid_tile(logit_ptr, gate_ptr, T, V, BT: tl.constexpr, BV: tl.constexpr):
    """gate = sigmoid(logit), both with rows one after another: the first of two kernels."""
    t = tl.program_id(0) * BT + tl.arange(0, BT)[:, None]
    v = tl.program_id(1) * BV + tl.arange(0, BV)[None, :]
    there = (t < T) & (v < V)
    tl.store(gate_ptr + t * V + v, tl.sigmoid(tl.load(logit_ptr + t * V + v, mask=there, other=0.0)), mask=there)


@triton.jit
def multiply_tile(
    y_ptr, gate_ptr, out_ptr, T, V, y_t, BT: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """out = y gate: the second of two kernels."""
    t = tl.program_id(0) * BT + tl.arange(0, BT)[:, None]
    v = tl.program_id(1) * BV + tl.arange(0, BV)[None, :]
    there = (t < T) & (v < V)
    y = tl.load(y_ptr + t * y_t + v, mask=there, other=0.0)
    gate = tl.load(gate_ptr + t * V + v, mask=there, other=0.0)
    tl.store(out_ptr + t * V + v, y * gate, mask=there)


@triton.jit
def attend_tile(
    q_ptr, k_ptr, v_ptr, logit_ptr, out_ptr, T, scale, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    GATED: tl.constexpr = True, EARLY: tl.constexpr = True,
):  # fmt: skip
    """Causal attention of a tile of queries; ``EARLY`` stops at the last key that the tile may see."""
    t = tl.program_id(0) * BM + tl.arange(0, BM)
    d = tl.arange(0, D)
    rows, there = t[:, None] * D + d[None, :], t[:, None] < T
    q = tl.load(q_ptr + rows, mask=there, other=0.0)
    top = tl.full([BM], -float("inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    end = tl.minimum(T, (tl.program_id(0) + 1) * BM) if EARLY else T
    for start in range(0, end, BN):
        s = start + tl.arange(0, BN)
        keys, known = s[:, None] * D + d[None, :], s[:, None] < T
        k = tl.load(k_ptr + keys, mask=known, other=0.0)
        v = tl.load(v_ptr + keys, mask=known, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where((s[None, :] <= t[:, None]) & (s[None, :] < T), scores, -float("inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        shrink = tl.exp(top - higher)
        p = tl.exp(scores - higher[:, None])
        total = total * shrink + tl.sum(p, 1)
        acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        top = higher
    out = acc / total[:, None]
    if GATED:
        out = out * tl.sigmoid(tl.load(logit_ptr + rows, mask=there, other=0.0).to(tl.float32))
    tl.store(out_ptr + rows, out, mask=there)


@triton.jit
def gate_forward(y_ptr, logit_ptr, out_ptr, gate_ptr, n, BLOCK: tl.constexpr, KEEP: tl.constexpr):
    """out = y sigmoid(logit); ``KEEP`` writes the gate down for the backward pass."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.sigmoid(tl.load(logit_ptr + i, mask=i < n, other=0.0))
    if KEEP:
        tl.store(gate_ptr + i, gate, mask=i < n)
    tl.store(out_ptr + i, tl.load(y_ptr + i, mask=i < n, other=0.0) * gate, mask=i < n)


@triton.jit
def gate_backward(dout_ptr, y_ptr, logit_ptr, gate_ptr, dy_ptr, dlogit_ptr, n, BLOCK: tl.constexpr, KEPT: tl.constexpr):
    """dy and dlogit of `gate_forward`; ``KEPT`` reads the gate where it was written down."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = i < n
    if KEPT:
        gate = tl.load(gate_ptr + i, mask=there, other=0.0)
    else:
        gate = tl.sigmoid(tl.load(logit_ptr + i, mask=there, other=0.0))
    dout = tl.load(dout_ptr + i, mask=there, other=0.0)
    y = tl.load(y_ptr + i, mask=there, other=0.0)
    tl.store(dy_ptr + i, dout * gate, mask=there)
    tl.store(dlogit_ptr + i, dout * y * gate * (1 - gate), mask=there)
