"""Backward kernels of routed experts: gradients of the hidden rows, of the inputs' rows and of the weights.

Legend: n token, r row (one assignment, expert by expert), e expert, d channel, f hidden channel.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gatescope_kernels.ops.routed_experts.fused_blocks import block_of, sigmoid, store_block, tile_of


@triton.jit
def halves(x):
    """Left and right half of the columns, so that what follows needs half the registers."""
    return tl.split(x.reshape(x.shape[0], 2, x.shape[1] // 2).permute(0, 2, 1))


@triton.jit
def swiglu_backward(t, w, r, f, real_r, gate, up, dgate, dup, scaled, F):
    """From t at r x f writes dg, du and w h there, and returns the sums over f of t h."""
    real_f = f < F
    g = block_of(gate, r, f, F, 1, real_r, real_f).to(tl.float32)
    u = block_of(up, r, f, F, 1, real_r, real_f).to(tl.float32)
    s = sigmoid(g)
    h = g * s * u
    dh = w[:, None] * t
    store_block(scaled, r, f, F, 1, real_r, real_f, w[:, None] * h)
    store_block(dup, r, f, F, 1, real_r, real_f, dh * g * s)
    store_block(dgate, r, f, F, 1, real_r, real_f, dh * u * s * (1.0 + g * (1.0 - s)))
    return tl.sum(tl.where(real_f[None, :], t * h, 0.0), 1)


@triton.jit
def hidden_gradient_kernel(
    dy,
    dy_n,
    dy_d,
    token,
    table,
    w_down,
    w_e,
    w_f,
    w_d,
    gate,
    up,
    weight,
    dgate,
    dup,
    scaled,
    dweight,
    D,
    F,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A program makes one tile of rows x one block of hidden channels, and that block's part of dw_r.

    t_r = dy_n W_down[e]^T      dw_r = t_r . h_r      dh_r = w_r t_r      h_r = silu(g_r) * u_r
    du_r = dh_r * silu(g_r)     dg_r = dh_r * u_r * silu'(g_r)

    scaled holds w_r h_r, which the gradient of W_down needs.
    """
    blocks = tl.cdiv(F, COLUMNS)
    block = tl.program_id(0) % blocks
    e, first, stop = tile_of(table, tl.program_id(0) // blocks)
    if first >= stop:
        return
    r = first + tl.arange(0, ROWS)
    f = (block * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    real_r, real_f = r < stop, f < F
    n = tl.load(token + r, mask=real_r, other=0)
    t = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, D, INNER):
        d = (start + tl.arange(0, INNER)).to(tl.int64)
        real_d = d < D
        rows = block_of(dy, n, d, dy_n, dy_d, real_r, real_d)  # [ROWS INNER]
        t = tl.dot(rows, block_of(w_down + e * w_e, d, f, w_d, w_f, real_d, real_f), t, input_precision=PRECISION)
    w = tl.load(weight + r, mask=real_r, other=0.0).to(tl.float32)
    left, right = halves(t)
    f = block * COLUMNS + tl.arange(0, COLUMNS // 2)
    dw = swiglu_backward(left, w, r, f, real_r, gate, up, dgate, dup, scaled, F)
    dw += swiglu_backward(right, w, r, f + COLUMNS // 2, real_r, gate, up, dgate, dup, scaled, F)
    tl.store(dweight + r * blocks + block, dw, mask=real_r)


@triton.jit
def input_gradient_kernel(
    dgate,
    dup,
    table,
    w_gate,
    g_e,
    g_d,
    g_f,
    w_up,
    u_e,
    u_d,
    u_f,
    dx,
    D,
    F,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A program makes one tile of rows x one block of channels:    dx_r = dg_r W_gate[e]^T + du_r W_up[e]^T"""
    blocks = tl.cdiv(D, COLUMNS)
    e, first, stop = tile_of(table, tl.program_id(0) // blocks)
    if first >= stop:
        return
    r = first + tl.arange(0, ROWS)
    d = (tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    real_r, real_d = r < stop, d < D
    sum_ = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, F, INNER):
        f = (start + tl.arange(0, INNER)).to(tl.int64)
        real_f = f < F
        dg = block_of(dgate, r, f, F, 1, real_r, real_f)  # [ROWS INNER]
        du = block_of(dup, r, f, F, 1, real_r, real_f)
        gate_FD = block_of(w_gate + e * g_e, f, d, g_f, g_d, real_f, real_d)
        up_FD = block_of(w_up + e * u_e, f, d, u_f, u_d, real_f, real_d)
        sum_ = tl.dot(dg, gate_FD, sum_, input_precision=PRECISION)
        sum_ = tl.dot(du, up_FD, sum_, input_precision=PRECISION)
    store_block(dx, r, d, D, 1, real_r, real_d, sum_)


@triton.jit
def gate_up_weight_kernel(
    x,
    x_n,
    x_d,
    token,
    end,
    dgate,
    dup,
    dw_gate,
    g_e,
    g_d,
    g_f,
    dw_up,
    u_e,
    u_d,
    u_f,
    D,
    F,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A program makes one block of both gradients of one expert, summed over its rows; an idle expert's are zero.

    dW_gate[e] = sum_r x_n^T dg_r        dW_up[e] = sum_r x_n^T du_r
    """
    across, down = tl.cdiv(F, COLUMNS), tl.cdiv(D, ROWS)
    e = (tl.program_id(0) // (across * down)).to(tl.int64)
    d = (tl.program_id(0) // across % down * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    f = (tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    real_d, real_f = d < D, f < F
    first = tl.load(end + e - 1, mask=e > 0, other=0)
    stop = tl.load(end + e)
    dw_g = tl.zeros((ROWS, COLUMNS), tl.float32)
    dw_u = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(first, stop, INNER):
        r = start + tl.arange(0, INNER)
        real_r = r < stop
        n = tl.load(token + r, mask=real_r, other=0)
        columns = block_of(x, d, n, x_d, x_n, real_d, real_r)  # [ROWS INNER], x transposed
        dg = block_of(dgate, r, f, F, 1, real_r, real_f)
        du = block_of(dup, r, f, F, 1, real_r, real_f)
        dw_g = tl.dot(columns, dg, dw_g, input_precision=PRECISION)
        dw_u = tl.dot(columns, du, dw_u, input_precision=PRECISION)
    store_block(dw_gate + e * g_e, d, f, g_d, g_f, real_d, real_f, dw_g)
    store_block(dw_up + e * u_e, d, f, u_d, u_f, real_d, real_f, dw_u)


@triton.jit
def down_weight_kernel(
    scaled,
    dy,
    dy_n,
    dy_d,
    token,
    end,
    dw_down,
    w_e,
    w_f,
    w_d,
    D,
    F,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A program makes one block of one expert's gradient; an idle expert's is zero.

    dW_down[e] = sum_r (w_r h_r)^T dy_n
    """
    across, down = tl.cdiv(D, COLUMNS), tl.cdiv(F, ROWS)
    e = (tl.program_id(0) // (across * down)).to(tl.int64)
    f = (tl.program_id(0) // across % down * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    d = (tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    real_f, real_d = f < F, d < D
    first = tl.load(end + e - 1, mask=e > 0, other=0)
    stop = tl.load(end + e)
    dw = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(first, stop, INNER):
        r = start + tl.arange(0, INNER)
        real_r = r < stop
        n = tl.load(token + r, mask=real_r, other=0)
        h = block_of(scaled, f, r, 1, F, real_f, real_r)  # [ROWS INNER], transposed
        rows = block_of(dy, n, d, dy_n, dy_d, real_r, real_d)
        dw = tl.dot(h, rows, dw, input_precision=PRECISION)
    store_block(dw_down + e * w_e, f, d, w_f, w_d, real_f, real_d, dw)
