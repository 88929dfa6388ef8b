"""From a block mask to batches of equal work: query blocks that read equally many key blocks go together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gatescope_kernels.ops.block_sparse_attention.problem import Problem

#: Elements of the largest buffer of a chunk. On a CPU a chunk's scores, keys and values stay in the cores' own cache.
ELEMENTS = {"cpu": 1 << 19}
ELEMENTS_ELSEWHERE = 1 << 25
#: Query blocks of a chunk come in multiples of this, so that threads share them evenly.
ROWS = 4


@dataclass(frozen=True, slots=True)
class Chunk:
    """n query blocks, each reading ``count`` key blocks in the order of their positions.

    rows    which query blocks, as indices into [B M nQ] folded                                 [n]
    blocks  the key blocks they read, as indices into [B G nS] folded                           [n * count]
    limit   -inf on scores of the last key blocks that a query may not read, inf on the others  [tile, columns]
    empty   queries that read no key at all; None where there is none                           [tile]
    """

    rows: Int[Tensor, " n"]
    blocks: Int[Tensor, " n_count"]
    count: int
    limit: Float[Tensor, "tile columns"] | None
    empty: Bool[Tensor, " tile"] | None


@dataclass(frozen=True, slots=True)
class Plan:
    """``idle``: query blocks that read nothing. The chunks hold every selected pair with a visible score, once."""

    idle: Int[Tensor, " n"]
    chunks: tuple[Chunk, ...]


def make_plan(block_mask: Bool[Tensor, "B M nQ nS"], problem: Problem, width: int) -> Plan:
    """The plan of a mask; ``width`` is the larger of K and V."""
    grid, device, masks = problem.grid, problem.device, block_mask.shape[1]
    on = block_mask & grid.visible(device)
    count_R = on.sum(-1).flatten()
    cuts = grid.cuts(device)
    kind_R = torch.zeros_like(count_R)
    for bit, (pairs, _) in enumerate(cuts):
        kind_R += (on & pairs).any(-1).flatten().long() << bit
    # Sorted by how many key blocks are read and which of those are cut: within a row the cut ones come last.
    kinds = 1 << len(cuts)
    key_R, order_R = (count_R * kinds + kind_R).sort(stable=True)
    blocks_P = _blocks_in_order(on.reshape(-1, grid.nS), count_R, order_R, grid.nQ * (masks // problem.G))
    keys, numbers = torch.unique_consecutive(key_R, return_counts=True)
    size = grid.block * max(problem.H // masks * grid.tile, width)
    largest = ELEMENTS.get(device.type, ELEMENTS_ELSEWHERE) // size
    found: list[Chunk] = []
    row = pair = idle = 0
    for key, number in zip(keys.tolist(), numbers.tolist(), strict=True):
        count, kind = divmod(key, kinds)
        stop = row + number
        if count == 0:
            row = idle = stop
            continue
        limit, empty = _limit([each for bit, (_, each) in enumerate(cuts) if kind >> bit & 1], count, problem.dtype)
        step = max(ROWS, largest // count // ROWS * ROWS)
        for start in range(row, stop, step):
            rows = order_R[start : min(start + step, stop)]
            end = pair + rows.numel() * count
            found.append(Chunk(rows, blocks_P[pair:end], count, limit, empty))
            pair = end
        row = stop
    return Plan(order_R[:idle], tuple(found))


def _limit(
    parts: list[Bool[Tensor, "tile block"]], count: int, dtype: torch.dtype
) -> tuple[Float[Tensor, "tile columns"] | None, Bool[Tensor, " tile"] | None]:
    if not parts:
        return None, None
    hidden = torch.cat(parts, -1)
    limit = torch.full_like(hidden, torch.inf, dtype=dtype).masked_fill_(hidden, -torch.inf)
    empty = hidden.all(-1)
    return limit, empty if len(parts) == count and empty.any() else None


def _blocks_in_order(
    on: Bool[Tensor, "rows nS"], count_R: Int[Tensor, " rows"], order_R: Int[Tensor, " rows"], rows_of_group: int
) -> Int[Tensor, " pairs"]:
    """The selected key blocks of all rows, as indices into [B G nS] folded, rows in the given order."""
    row_P, column_P = on.nonzero().unbind(1)
    count = count_R[order_R]
    moved = (count_R.cumsum(0) - count_R)[order_R] - (count.cumsum(0) - count)
    taken = torch.arange(row_P.numel(), device=on.device) + moved.repeat_interleave(count)
    return (row_P // rows_of_group * on.shape[1] + column_P)[taken]
