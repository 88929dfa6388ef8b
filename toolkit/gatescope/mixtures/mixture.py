"""R Gaussian mixtures of experts side by side: parameters, density, samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gatescope.errors import NonFiniteError, Refusal
from gatescope.mixtures.router import RouterSpec


@dataclass(frozen=True, slots=True, eq=False)
class GaussianMoE:
    """Linear experts with Gaussian noise behind a router, R of them side by side.

        p(y | x) = sum_e pi_e(x) N(y; a_e . x + c_e, s_e^2)

    router           the gate, see `RouterSpec`
    gate_slope       w [R E D]; gate_bias b [R E]; the last expert is the reference, with w = 0 and b = 0, because
                     softmax does not feel a common shift
    log_temperature  log tau [R]
    slope            a [R E D]; intercept c [R E]; log_scale log s [R E]

    Source: Jacobs et al. 1991; Nguyen et al. 2023 (arXiv 2309.13850). Raises Refusal for shapes that do not fit.
    """

    router: RouterSpec
    gate_slope: Float[Tensor, "R E D"]
    gate_bias: Float[Tensor, "R E"]
    log_temperature: Float[Tensor, " R"]
    slope: Float[Tensor, "R E D"]
    intercept: Float[Tensor, "R E"]
    log_scale: Float[Tensor, "R E"]

    def __post_init__(self) -> None:
        shape = tuple(self.slope.shape)
        for name, wanted in (
            ("gate_slope", shape),
            ("gate_bias", shape[:2]),
            ("log_temperature", shape[:1]),
            ("intercept", shape[:2]),
            ("log_scale", shape[:2]),
        ):
            if tuple(getattr(self, name).shape) != wanted:
                got = f"{tuple(getattr(self, name).shape)}"
                raise Refusal("GaussianMoE", f"{name} of shape {wanted}", got, "slope is [R E D]")

    @property
    def n_experts(self) -> int:
        """E."""
        return self.slope.shape[1]

    def map(self, function: Callable[[Tensor], Tensor]) -> GaussianMoE:
        """The mixtures with ``function`` applied to each of their tensors, for example ``torch.clone``."""
        return GaussianMoE(self.router, *(function(tensor) for tensor in self.tensors()))

    def at(self, replicates: slice | Tensor) -> GaussianMoE:
        """The mixtures of these replicates: a slice, their places, or a mask."""
        return self.map(lambda tensor: tensor[replicates])

    def tensors(self) -> tuple[Tensor, ...]:
        """The six parameter tensors, in the order of the fields."""
        return tuple(getattr(self, field.name) for field in fields(self)[1:])

    def experts(self, index: Sequence[int], router: RouterSpec | None = None) -> GaussianMoE:
        """These experts in this order, repeated where an index repeats, behind ``router`` (default: as it is)."""
        picked = (tensor[:, list(index)] if tensor.ndim > 1 else tensor for tensor in self.tensors())
        return GaussianMoE(router or self.router, *picked)

    def log_weights(self, x: Float[Tensor, "R n D"]) -> Float[Tensor, "R n E"]:
        """log pi_e(x), -inf for an expert that is cut."""
        z = torch.einsum("rnd,red->rne", x, self.gate_slope)
        return self.router.log_weights(z, self.gate_bias, self.log_temperature)

    def log_normal(self, x: Float[Tensor, "R n D"], y: Float[Tensor, "R n"]) -> Float[Tensor, "R n E"]:
        """log N(y; a_e . x + c_e, s_e^2) of every expert, nats."""
        mean = torch.einsum("rnd,red->rne", x, self.slope) + self.intercept[:, None]
        standard = (y[..., None] - mean) * torch.exp(-self.log_scale)[:, None]
        return -0.5 * standard**2 - self.log_scale[:, None] - 0.5 * math.log(2 * math.pi)

    def log_density(self, x: Float[Tensor, "R n D"], y: Float[Tensor, "R n"]) -> Float[Tensor, "R n"]:
        """log p(y | x) of every sample, nats. Raises NonFiniteError where it is NaN or infinite."""
        found = torch.logsumexp(self.log_weights(x) + self.log_normal(x, y), -1)
        if not torch.isfinite(found).all():
            count = int((~torch.isfinite(found)).sum())
            raise NonFiniteError("GaussianMoE.log_density", "finite values", f"{count} that are not", "check the data")
        return found

    def sample(self, x: Float[Tensor, "R n D"], generator: torch.Generator) -> Float[Tensor, "R n"]:
        """One y for every x. R = 1 mixtures serve any R of x."""
        own = self if self.slope.shape[0] == x.shape[0] else self.map(lambda t: t.expand(x.shape[0], *t.shape[1:]))
        weights = own.log_weights(x).exp()
        drawn: Int[Tensor, "R n"] = torch.multinomial(weights.flatten(0, 1), 1, generator=generator).view(x.shape[:2])
        mean = torch.einsum("rnd,red->rne", x, own.slope) + own.intercept[:, None]
        mean = mean.gather(-1, drawn[..., None])[..., 0]
        scale = own.log_scale.exp().gather(1, drawn)
        return mean + scale * torch.randn(x.shape[:2], generator=generator, dtype=x.dtype)
