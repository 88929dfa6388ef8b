"""Steps that the fused kernels share."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile_of(table, tile):
    """The tile's expert, its first row and the row behind its last."""
    return tl.load(table + 3 * tile), tl.load(table + 3 * tile + 1), tl.load(table + 3 * tile + 2)


@triton.jit
def block_of(matrix, row, column, row_stride, column_stride, real_row, real_column):
    """The elements at ``row`` x ``column``; zero outside."""
    at = matrix + row[:, None] * row_stride + column[None, :] * column_stride
    return tl.load(at, mask=real_row[:, None] & real_column[None, :], other=0.0)


@triton.jit
def store_block(matrix, row, column, row_stride, column_stride, real_row, real_column, values):
    """Write ``values`` to ``row`` x ``column`` in the matrix' dtype; nothing outside."""
    at = matrix + row[:, None] * row_stride + column[None, :] * column_stride
    tl.store(at, values.to(matrix.dtype.element_ty), mask=real_row[:, None] & real_column[None, :])


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)), which never takes the exponential of a positive number."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)
