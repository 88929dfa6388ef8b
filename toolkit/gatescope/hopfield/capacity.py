"""How many random patterns a memory can hold before queries no longer find theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gatescope.errors import Refusal


def sphere(n: int, dim: int, radius: float, generator: torch.Generator) -> Float[Tensor, "n D"]:
    """``n`` points drawn uniformly on the sphere of this radius in ``dim`` dimensions, float64."""
    points = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    return radius * points / points.norm(dim=-1, keepdim=True)


def retrieved_share(
    stored: Float[Tensor, "N D"],
    visible: Bool[Tensor, " D"],
    beta: float,
    sizes: Sequence[int],
    *,
    queries: int = 256,
    error: float = 0.1,
) -> Float[np.ndarray, " M"]:
    """The share of queries that one softmax update brings to their pattern, in memories of the first n patterns.

    Query q is pattern q with the channels that are not ``visible`` set to 0. It is retrieved when one update brings it
    within ``error`` times the norm of the pattern. ``sizes`` are the n, ascending; where n < ``queries`` only the
    first n are asked for. Everything for a larger n is added to what stands, so all sizes cost one pass.

    Raises Refusal for sizes that do not ascend from 2 up to the number of patterns.
    """
    if list(sizes) != sorted(set(sizes)) or not sizes or sizes[0] < 2 or sizes[-1] > len(stored):
        wanted = f"sizes that ascend between 2 and {len(stored)}"
        raise Refusal("retrieved_share", wanted, str(list(sizes)), "store more patterns or ask for fewer")
    targets = stored[:queries]
    states = targets * visible
    top = torch.full((len(targets), 1), -torch.inf, dtype=stored.dtype)
    total, reached = torch.zeros_like(top), torch.zeros_like(targets)
    shares, start = [], 0
    for size in sizes:
        scores = beta * states @ stored[start:size].mT
        raised = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, shrink = (scores - raised).exp(), (top - raised).exp()
        total = total * shrink + weights.sum(-1, keepdim=True)
        reached = reached * shrink + weights @ stored[start:size]
        top, start = raised, size
        away = (reached / total - targets).norm(dim=-1) / targets.norm(dim=-1)
        shares.append(float((away[:size] <= error).double().mean()))
    return np.array(shares)


def capacity(sizes: Sequence[int], shares: Sequence[float] | np.ndarray, level: float) -> float:
    """The n at which the retrieved share first falls to ``level``, between two sizes linear in log n.

    NaN where it is below the level from the first size on, or never falls to it: then the sizes do not hold the answer.
    Raises Refusal for lengths that differ.
    """
    values = np.asarray(shares, dtype=float)
    if len(values) != len(sizes):
        raise Refusal("capacity", "a share a size", f"{len(values)} and {len(sizes)}", "measure them together")
    below = np.flatnonzero(values < level)
    if not len(below) or below[0] == 0:
        return math.nan
    high = int(below[0])
    low = high - 1
    part = (values[low] - level) / (values[low] - values[high])
    return float(sizes[low] ** (1 - part) * sizes[high] ** part)
