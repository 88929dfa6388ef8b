"""What one row of weights says of itself: its entropy, and how many entries hold most of its mass."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gatescope.errors import Refusal


def entropy(weights: Float[Tensor, "*B n"]) -> Float[Tensor, "*B"]:
    """-sum_j p_j log p_j of every row divided by its sum, nats; 0 log 0 is 0. Between 0 and log n.

    A row without any mass has entropy 0.
    """
    share = weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    return -torch.special.xlogy(share, share).sum(-1).clamp_max(0)


def state_size(weights: Float[Tensor, "*B n"], mass: float = 0.9) -> Int[Tensor, "*B"]:
    """k: the fewest entries of a row that together hold ``mass`` of its sum. 1 is a single pattern, n about all.

        k = min{k : sum of the k largest weights >= mass * sum of all}

    A row without any mass has k = 0. Raises Refusal for a mass outside (0, 1).

    Source: Ramsauer et al. 2020 (arXiv 2008.02217), figure 2, where mass is 0.90.
    """
    if not 0 < mass < 1:
        raise Refusal("state_size", "a share of the mass between 0 and 1", f"{mass}", "the paper takes 0.9")
    reached = weights.sort(-1, descending=True).values.cumsum(-1)
    total = reached[..., -1:]
    # A sum of many float32 numbers may end a rounding below what it should reach.
    short = reached < total * mass * (1 - 4 * torch.finfo(weights.dtype).eps)
    return torch.where(total[..., 0] > 0, short.sum(-1) + 1, 0)
