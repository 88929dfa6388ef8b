"""Which rows read a key: the visibility rule of the operator, seen from the key's side, in O(T + S)."""

from __future__ import annotations

import torch
from gatescope_kernels import Visibility
from jaxtyping import Bool, Int
from torch import Tensor


def reader_range(rule: Visibility, keys: Int[Tensor, " N"]) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """Key j is visible from exactly the positions p with low_j <= p < high_j (`Visibility` has the rule)."""
    everywhere = torch.iinfo(torch.int64).max // 2
    low = keys.clone() if rule.causal else torch.full_like(keys, -everywhere)
    high = torch.full_like(keys, everywhere)
    if rule.window is not None:
        kept = keys < rule.sink_tokens
        high = torch.where(kept, high, keys + rule.window)
        low = torch.where(kept, low, torch.maximum(low, keys - rule.window + 1))
    return low, high


def sees(rule: Visibility, positions: Int[Tensor, " T"], keys: Int[Tensor, " N"]) -> Bool[Tensor, "T N"]:
    """Whether the query at each absolute position may read each of a few chosen keys."""
    low, high = reader_range(rule, keys)
    return (positions[:, None] >= low) & (positions[:, None] < high)


def count_readers(rule: Visibility, rows: Bool[Tensor, "B T"], length: int) -> Int[Tensor, "B S"]:
    """How many of the marked rows may read each of ``length`` = S keys, before any key mask."""
    first = length - rows.shape[1]
    counted = torch.nn.functional.pad(rows.cumsum(-1), (1, 0))
    low, high = reader_range(rule, torch.arange(length, device=rows.device))
    low, high = ((bound - first).clamp(0, rows.shape[1]) for bound in (low, high))
    return counted[:, torch.maximum(low, high)] - counted[:, low]
