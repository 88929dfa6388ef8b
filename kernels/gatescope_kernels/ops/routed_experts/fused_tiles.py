"""How large the tiles of the fused kernels are, and which rows each tile holds: a table that is made on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gatescope_kernels.ops._launch import target
from gatescope_kernels.ops.routed_experts.layout import sort_by_expert

#: Columns of a tile in 16 bits, by kernel; half as many in float32. Two results or a long epilogue take more registers.
COLUMNS = {
    "swiglu": 64,
    "down": 128,
    "hidden_gradient": 64,
    "input_gradient": 128,
    "gate_up_weight": 64,
    "down_weight": 128,
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of one product: ``rows`` x ``columns`` results a program, summed ``inner`` at a time."""

    rows: int
    columns: int
    inner: int
    warps: int
    stages: int


def tile_rows(x: Float[Tensor, "N D"], R: int, E: int) -> int:
    """Rows of a tile: about an expert's even share, so that light loads do not compute on empty rows."""
    if target(x).name == "interpreter":
        return 32
    return _power(R // E, 64 if x.dtype == torch.float32 else 128)


def row_product(kernel: str, x: Float[Tensor, "N D"], rows: int, columns: int, inner: int) -> Sizes:
    """For products of rows with their expert's weights: ``columns`` results a row, each a sum over ``inner``."""
    name, wide = target(x).name, x.dtype == torch.float32
    if name == "interpreter":
        return Sizes(rows, _power(columns, 32), _power(inner, 32), warps=4, stages=1)
    columns = _power(columns, COLUMNS[kernel] // (2 if wide else 1))
    if wide:
        step = 16 if name == "sm_80" else 32
    else:
        step = 64 if name in ("sm_90", "sm_100") and kernel != "input_gradient" else 32
    stages = 2 if name.startswith("gfx") else 3
    return Sizes(rows, columns, _power(inner, step), _warps(rows * columns), stages)


def weight_product(kernel: str, x: Float[Tensor, "N D"], rows: int, columns: int) -> Sizes:
    """For gradients of weights: ``rows`` x ``columns`` results an expert, each a sum over its rows.

    Which token a row belongs to is read first, so of five stages two go by before its product.
    """
    name, wide = target(x).name, x.dtype == torch.float32
    if name == "interpreter":
        return Sizes(_power(rows, 32), _power(columns, 32), 32, warps=4, stages=1)
    rows = _power(rows, 64 if wide else 128)
    columns = _power(columns, COLUMNS[kernel] // (2 if wide else 1))
    step = 16 if wide and name == "sm_80" else 64 if not wide and name == "sm_90" else 32
    return Sizes(rows, columns, step, _warps(rows * columns), 2 if name.startswith("gfx") else 5)


def combine_sizes(rows: Float[Tensor, "R D"]) -> Sizes:
    """For sums of a token's rows, which are no product."""
    if target(rows).name == "interpreter":
        return Sizes(32, _power(rows.shape[1], 32), 1, warps=4, stages=1)
    return Sizes(4, _power(rows.shape[1], 512), 1, warps=4, stages=1)


def _warps(results: int) -> int:
    return 4 if results <= 2048 else 8


def _power(n: int, most: int) -> int:
    """The power of two from n up, between 16, which tl.dot asks for, and ``most``."""
    return min(most, max(16, 1 << (n - 1).bit_length() if n > 1 else 1))


@dataclass(frozen=True, slots=True)
class Tiles:
    """All assignments as rows, expert by expert, and tiles of rows of one expert each. R = N k: no row is padding.

    token   the token of each row                                                     [R]
    row     the row of each assignment                                                [N k]
    end     of each expert's rows, exclusive                                          [E]
    table   expert, first row, last row, exclusive; an idle tile has no rows          [tiles 3]
    rows    that a tile holds at most
    """

    token: Int[Tensor, " R"]
    row: Int[Tensor, "N k"]
    end: Int[Tensor, " E"]
    table: Int[Tensor, "tiles 3"]
    rows: int


def tile(expert_index: Int[Tensor, "N k"], E: int, rows: int) -> Tiles:
    """Sort assignments by expert and cut every expert's rows into tiles.

    Loads are not read on the host, so there are as many tiles as any load can need. With b busy experts,
    sum_e ceil(load_e / rows) <= b + (R - b) // rows, which grows with b <= min(E, R).
    """
    order = sort_by_expert(expert_index, E)
    device, R, busy = expert_index.device, expert_index.numel(), min(E, expert_index.numel())
    tiles_E = (order.load + rows - 1) // rows
    last_E = tiles_E.cumsum(0)
    number = torch.arange(busy + (R - busy) // rows, device=device)
    expert = torch.searchsorted(last_E, number, right=True)
    idle, expert = expert == E, expert.clamp(max=E - 1)
    first = (order.end - order.load)[expert] + (number - (last_E - tiles_E)[expert]) * rows
    first = first.masked_fill(idle, R)
    stop = torch.minimum(first + rows, order.end[expert])
    row = torch.empty_like(order.assignment).scatter_(0, order.assignment, torch.arange(R, device=device))
    return Tiles(
        token=order.assignment // expert_index.shape[1],
        row=row.view(expert_index.shape),
        end=order.end,
        table=torch.stack([expert, first, stop], 1),
        rows=rows,
    )
