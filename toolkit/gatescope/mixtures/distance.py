"""How far a fitted density is from the true one."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gatescope.mixtures.mixture import GaussianMoE


@torch.no_grad()
def hellinger(
    fitted: GaussianMoE,
    truth: GaussianMoE,
    x: Float[Tensor, "n D"],
    *,
    y: tuple[float, float] = (-8.0, 8.0),
    points: int = 321,
) -> Float[Tensor, " R"]:
    """Hellinger distance of p(y | x) from the truth, mean over ``x``: 0 for equal, at most 1.

        h^2 = 1 - integral sqrt(p q) dy,    h = mean over x of sqrt(h^2)

    The integral is a trapezoidal sum over ``points`` of ``y``, which must reach beyond all experts; what p and q have
    outside counts as agreement lost, so too narrow a range shows as a distance of the truth from itself.
    """
    grid = torch.linspace(*y, points, dtype=x.dtype)
    wide = x.repeat_interleave(points, 0)[None]
    column = grid.repeat(len(x))[None]
    target = truth.log_density(wide, column)
    step = float(grid[1] - grid[0])
    found = []
    for replicate in range(fitted.slope.shape[0]):
        own = fitted.at(slice(replicate, replicate + 1))
        root = (0.5 * (own.log_density(wide, column) + target)).exp().view(len(x), points)
        overlap = step * (root.sum(-1) - 0.5 * (root[:, 0] + root[:, -1]))
        found.append((1 - overlap).clamp_min(0).sqrt().mean())
    return torch.stack(found)
