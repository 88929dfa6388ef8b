"""Known mixtures, data drawn from them, and where a fit starts: of lesson 09 and the study `gaussian-rates`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gatescope.mixtures.mixture import GaussianMoE
from gatescope.mixtures.router import RouterSpec

#: Inputs are uniform on [-HALF, HALF].
HALF = 2.0
#: Standard deviation of what is added to every parameter of the truth to start a fit.
JITTER = 0.2


def _mixture(
    router: RouterSpec,
    *,
    gate: Sequence[float],
    bias: Sequence[float],
    slope: Sequence[float],
    intercept: Sequence[float],
    scale: Sequence[float],
    temperature: float = 1.0,
) -> GaussianMoE:
    w, b, a, c, s = (torch.tensor([values], dtype=torch.float64) for values in (gate, bias, slope, intercept, scale))
    tau = torch.tensor([temperature], dtype=torch.float64)
    return GaussianMoE(router, w[..., None], b, tau.log(), a[..., None], c, s.log())


_TWO: dict[str, Any] = {"slope": (1.0, -0.6), "intercept": (-1.5, 1.5), "scale": (0.4, 0.5)}
#: Two experts that are both on everywhere.
DENSE = _mixture(RouterSpec(), gate=(1.2, 0.0), bias=(0.3, 0.0), **_TWO)
#: Three experts of which two are on: the first and the middle one for x > 0, the last and the middle one for x < 0.
SPARSE = _mixture(
    RouterSpec(k=2),
    gate=(1.5, 0.6, 0.0),
    bias=(0.2, 0.4, 0.0),
    slope=(1.0, -0.5, -1.0),
    intercept=(-2.0, 1.0, -2.0),
    scale=(0.35, 0.5, 0.4),
)


def cooled(activation: str, temperature: float = 0.5) -> GaussianMoE:
    """The two experts of DENSE behind a gate whose temperature is one more unknown."""
    router = RouterSpec(activation=activation, temperature="learned")
    return _mixture(router, gate=(1.0, 0.0), bias=(0.1, 0.0), temperature=temperature, **_TWO)


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One row of the experiment.

    truth    what makes the data
    experts  for every fitted expert the true one it starts near
    router   the gate that is fitted
    """

    truth: GaussianMoE
    experts: tuple[int, ...]
    router: RouterSpec

    @property
    def exact(self) -> bool:
        """As many experts as the truth has."""
        return len(self.experts) == self.truth.n_experts


def draw(
    truth: GaussianMoE, n: int, replicates: int, generator: torch.Generator
) -> tuple[Float[Tensor, "R n 1"], Float[Tensor, "R n"]]:
    """``replicates`` data sets of ``n`` samples."""
    x = HALF * (2 * torch.rand(replicates, n, 1, generator=generator, dtype=torch.float64) - 1)
    return x, truth.sample(x, generator)


def start_near(case: Case, replicates: int, generator: torch.Generator, jitter: float = JITTER) -> GaussianMoE:
    """Where fits start: the truth, its experts as often as ``case`` says, every free parameter moved by
    N(0, jitter^2). The same at every n, so that only the data can bring a fit nearer."""
    near = case.truth.experts(case.experts, case.router)
    near = near.map(lambda t: t + jitter * torch.randn(replicates, *t.shape[1:], generator=generator, dtype=t.dtype))
    last = torch.arange(len(case.experts)) == len(case.experts) - 1
    learned = case.router.temperature == "learned"
    return GaussianMoE(
        case.router,
        near.gate_slope.masked_fill(last[:, None], 0.0),
        near.gate_bias.masked_fill(last, 0.0),
        near.log_temperature if learned else torch.zeros_like(near.log_temperature),
        near.slope,
        near.intercept,
        near.log_scale,
    )
