"""The Triton kernels of N:M masked linear.

Letters: R rows of x (all leading dimensions), D inputs, F outputs. README.md has the passes.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def mask_kernel(
    bits_ptr,
    mask_ptr,
    kept_ptr,
    F,
    D,
    w_stride_f,
    w_stride_d,
    KEPT: tl.constexpr,
    GROUP: tl.constexpr,
    MAGNITUDE: tl.constexpr,
    NOT_A_NUMBER: tl.constexpr,
    TILE_F: tl.constexpr,
    TILE_D: tl.constexpr,
):
    """One program ranks a tile [TILE_F TILE_D] of weights: each counts those of its group that rank before it.

        lost_i = #{j : |w_j| > |w_i|, or |w_j| = |w_i| and j < i}      mask_i = lost_i < KEPT      kept = w * mask

    A weight comes as its bits, of which MAGNITUDE leaves the sign out; NOT_A_NUMBER is what every NaN becomes. It reads
    its group once more, from the cache it has just filled, so a group may cross tiles and have any size.
    """
    tiles_d = tl.cdiv(D, TILE_D)
    f = (tl.program_id(0) // tiles_d * TILE_F + tl.arange(0, TILE_F))[:, None]
    d = (tl.program_id(0) % tiles_d * TILE_D + tl.arange(0, TILE_D))[None, :]
    inside = (f < F) & (d < D)
    place = d % GROUP
    row_ptr = bits_ptr + f.to(tl.int64) * w_stride_f
    group_ptr = row_ptr + (d - place).to(tl.int64) * w_stride_d
    bits = tl.load(row_ptr + d.to(tl.int64) * w_stride_d, mask=inside, other=0)
    mine = tl.minimum(bits & MAGNITUDE, NOT_A_NUMBER).to(tl.int32)
    lost = tl.zeros((TILE_F, TILE_D), tl.int32)
    for j in tl.range(GROUP, loop_unroll_factor=4):
        other = tl.load(group_ptr + j * w_stride_d, mask=inside, other=0)
        other = tl.minimum(other & MAGNITUDE, NOT_A_NUMBER).to(tl.int32)
        # Among integers, one more makes an equal that stands further left the larger, and nothing else.
        lost += (other + (j < place).to(tl.int32) > mine).to(tl.int32)
    keep = lost < KEPT
    at = f.to(tl.int64) * D + d
    tl.store(mask_ptr + at, keep, mask=inside)
    if kept_ptr is not None:
        w = bits.to(kept_ptr.dtype.element_ty, bitcast=True)
        tl.store(kept_ptr + at, w * keep.to(w.dtype), mask=inside)


@triton.jit
def tile_of(rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DOWN: tl.constexpr):
    """Which rows and columns of the result this program computes: DOWN tiles down, then one to the right."""
    tiles_down, tiles_right = tl.cdiv(rows, ROWS), tl.cdiv(columns, COLUMNS)
    band = tl.program_id(0) // (DOWN * tiles_right)
    place = tl.program_id(0) % (DOWN * tiles_right)
    height = tl.minimum(tiles_down - band * DOWN, DOWN)
    row = (band * DOWN + place % height) * ROWS + tl.arange(0, ROWS)
    column = place // height * COLUMNS + tl.arange(0, COLUMNS)
    return row, column


@triton.jit
def tile_product(
    a_ptr,
    b_ptr,
    row,
    column,
    rows,
    columns,
    inner,
    a_stride_row,
    a_stride_inner,
    b_stride_inner,
    b_stride_column,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """sum_k a[row, k] b[k, column] in float32, INNER of k at a time."""
    k = tl.arange(0, INNER)
    a_tile = a_ptr + row.to(tl.int64)[:, None] * a_stride_row + k.to(tl.int64)[None, :] * a_stride_inner
    b_tile = b_ptr + k.to(tl.int64)[:, None] * b_stride_inner + column.to(tl.int64)[None, :] * b_stride_column
    in_row, in_column = (row < rows)[:, None], (column < columns)[None, :]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, inner, INNER):
        here = k < inner - start
        a = tl.load(a_tile, mask=in_row & here[None, :], other=0.0)
        b = tl.load(b_tile, mask=here[:, None] & in_column, other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
        a_tile += INNER * a_stride_inner
        b_tile += INNER * b_stride_inner
    return total


@triton.jit
def product_kernel(
    a_ptr,
    b_ptr,
    bias_ptr,
    out_ptr,
    rows,
    columns,
    inner,
    a_stride_row,
    a_stride_inner,
    b_stride_inner,
    b_stride_column,
    bias_stride,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    DOWN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program computes a tile of out = a b + bias: y = x kept^T + bias, and dx = dy kept."""
    row, column = tile_of(rows, columns, ROWS, COLUMNS, DOWN)
    total = tile_product(
        a_ptr,
        b_ptr,
        row,
        column,
        rows,
        columns,
        inner,
        a_stride_row,
        a_stride_inner,
        b_stride_inner,
        b_stride_column,
        ROWS,
        COLUMNS,
        INNER,
        PRECISION,
    )
    if bias_ptr is not None:
        total += tl.load(bias_ptr + column * bias_stride, mask=column < columns, other=0.0).to(tl.float32)[None, :]
    at = row.to(tl.int64)[:, None] * columns + column[None, :]
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def weight_gradient_kernel(
    dy_ptr,
    x_ptr,
    w_ptr,
    mask_ptr,
    out_ptr,
    F,
    D,
    rows,
    dy_stride_row,
    dy_stride_f,
    x_stride_row,
    x_stride_d,
    decay,
    RULE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    DOWN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program computes a tile of g = dy^T x over all rows, in their order, and what w receives by ``RULE``:

    ste: g        masked: g * mask        srste: g + decay (1 - mask) w
    """
    f, d = tile_of(F, D, ROWS, COLUMNS, DOWN)
    g = tile_product(
        dy_ptr,
        x_ptr,
        f,
        d,
        F,
        D,
        rows,
        dy_stride_f,
        dy_stride_row,
        x_stride_row,
        x_stride_d,
        ROWS,
        COLUMNS,
        INNER,
        PRECISION,
    )
    at = f.to(tl.int64)[:, None] * D + d[None, :]
    inside = (f < F)[:, None] & (d < D)[None, :]
    if RULE != "ste":
        mask = tl.load(mask_ptr + at, mask=inside, other=0).to(tl.float32)
        if RULE == "masked":
            g *= mask
        else:
            g += decay * (1 - mask) * tl.load(w_ptr + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, g.to(out_ptr.dtype.element_ty), mask=inside)
