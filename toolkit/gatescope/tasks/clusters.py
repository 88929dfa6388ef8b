"""Inputs in clusters, and another linear map in each: what a mixture of experts is made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gatescope.errors import Refusal


@dataclass(frozen=True, kw_only=True)
class GaussianClusters:
    """A regression that is linear within every cluster and has nothing in common between them.

        c ~ uniform over clusters,    x = mu_c + N(0, I),    y = (A_c (x - mu_c) + b_c) / sqrt(2)

    with mu_c ~ N(0, separation^2 I), A_c ~ N(0, 1/dim), b_c ~ N(0, I) drawn once, from ``task_seed``: y has about unit
    variance, half of it between clusters. x and y have ``dim`` channels, so that a layer can be trained on its own.

    Source: a construction of this project, after the mixture of classification clusters of Chen et al. 2022 (Towards
    Understanding Mixture of Experts). Raises Refusal for fewer than two clusters, no channels or no separation.
    """

    clusters: int = 8
    dim: int = 16
    separation: float = 1.0
    task_seed: int = 0

    def __post_init__(self) -> None:
        if self.clusters < 2 or self.dim < 1 or not self.separation > 0:
            got = f"clusters={self.clusters}, dim={self.dim}, separation={self.separation}"
            raise Refusal("GaussianClusters", "2 clusters or more, dim >= 1, separation > 0", got, "use the defaults")

    def batch(
        self, seed: int | Sequence[int], size: int
    ) -> tuple[Float[Tensor, "n dim"], Float[Tensor, "n dim"], Int[Tensor, " n"]]:
        """Inputs, targets and the cluster of each: ``size`` of them, the same for the same seed."""
        if size < 1:
            raise Refusal("GaussianClusters.batch", "size >= 1", f"{size}", "ask for at least one sample")
        rng = np.random.default_rng(seed)
        c = rng.integers(self.clusters, size=size)
        noise = rng.standard_normal((size, self.dim))
        means, maps, offsets = self._drawn
        y = (np.einsum("ni,nij->nj", noise, maps[c]) + offsets[c]) / np.sqrt(2)
        return torch.from_numpy(means[c] + noise).float(), torch.from_numpy(y).float(), torch.from_numpy(c)

    @cached_property
    def _drawn(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self.task_seed, 1])
        means = self.separation * rng.standard_normal((self.clusters, self.dim))
        maps = rng.standard_normal((self.clusters, self.dim, self.dim)) / np.sqrt(self.dim)
        return means, maps, rng.standard_normal((self.clusters, self.dim))
