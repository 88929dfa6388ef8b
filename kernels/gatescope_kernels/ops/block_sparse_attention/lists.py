"""From a block mask to lists of what each block reads and is read by. Made on the device; nothing waits for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gatescope_kernels.ops.block_sparse_attention.problem import Grid


@dataclass(frozen=True, slots=True)
class Lists:
    """For every row of blocks which of ``n`` others go with it.

    entries  the blocks that are on, those of the first part before those of the second; what follows is not read
    ends     how many of them the first part has, and how many there are in all
    """

    entries: Int[Tensor, "*rows n"]
    ends: Int[Tensor, "*rows 2"]


def keys_of_queries(block_mask: Bool[Tensor, "B M nQ nS"], grid: Grid) -> Lists:
    """For each query block the key blocks it reads, in order: whole ones first, then those that hide a score."""
    on, cut = _on_and_cut(block_mask, grid)
    return _compact(on & ~cut, on & cut)


def queries_of_keys(block_mask: Bool[Tensor, "B M nQ nS"], G: int, grid: Grid) -> Lists:
    """For each key block of each key-value head the query blocks that read it: cut ones first, then whole ones.

    An entry is m * nQ + a: query block a under mask m of the M / G that belong to the key-value head.
    """
    B, M = block_mask.shape[:2]
    on, cut = (x.expand(B, M, -1, -1).reshape(B, G, -1, grid.nS).transpose(2, 3) for x in _on_and_cut(block_mask, grid))
    return _compact(on & cut, on & ~cut)


def _on_and_cut(
    block_mask: Bool[Tensor, "B M nQ nS"], grid: Grid
) -> tuple[Bool[Tensor, "B M nQ nS"], Bool[Tensor, "nQ nS"]]:
    device = block_mask.device
    cut = torch.zeros(grid.nQ, grid.nS, dtype=torch.bool, device=device)
    for pairs, _ in grid.cuts(device):
        cut |= pairs
    return block_mask & grid.visible(device), cut


def _compact(first: Bool[Tensor, "*rows n"], second: Bool[Tensor, "*rows n"]) -> Lists:
    """A stable sort of three kinds: the first part, the second, the rest."""
    kind = 2 - 2 * first.to(torch.uint8) - second.to(torch.uint8)
    entries = kind.contiguous().sort(dim=-1, stable=True).indices.to(torch.int32)
    ends = torch.stack([first.sum(-1), first.sum(-1) + second.sum(-1)], -1).to(torch.int32)
    return Lists(entries, ends)
