"""Small mixtures and data from them."""

from __future__ import annotations

import pytest
import torch
from gatescope.mixtures import GaussianMoE, RouterSpec

#: Every kind of gate: dense, cut, cooled, and cooled behind an activation.
ROUTERS = {
    "dense": RouterSpec(),
    "top-1": RouterSpec(k=1),
    "top-2": RouterSpec(k=2),
    "temperature": RouterSpec(temperature="learned"),
    "relu": RouterSpec(temperature="learned", activation="relu"),
    "tanh": RouterSpec(temperature="learned", activation="tanh"),
    "sigmoid": RouterSpec(activation="sigmoid"),
}


def mixture(router: RouterSpec, inputs: int = 1, replicates: int = 1, seed: int = 0) -> GaussianMoE:
    """Three random experts that are easy to tell apart."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(replicates, *shape, generator=generator, dtype=torch.float64)

    free = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    return GaussianMoE(
        router,
        normal(3, inputs) * free[:, None],
        0.3 * normal(3) * free,
        (0.2 * normal(1))[:, 0] if router.temperature == "learned" else torch.zeros(replicates, dtype=torch.float64),
        normal(3, inputs),
        torch.tensor([-3.0, 0.0, 3.0], dtype=torch.float64) + 0.1 * normal(3),
        0.1 * normal(3) - 0.7,
    )


def data(truth: GaussianMoE, n: int, replicates: int = 1, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs uniform on [-2, 2] and outputs of ``truth``."""
    generator = torch.Generator().manual_seed(seed)
    x = 4 * torch.rand(replicates, n, truth.slope.shape[-1], generator=generator, dtype=torch.float64) - 2
    return x, truth.sample(x, generator)


@pytest.fixture(params=ROUTERS)
def router(request: pytest.FixtureRequest) -> RouterSpec:
    """One kind of gate after the other."""
    return ROUTERS[request.param]
