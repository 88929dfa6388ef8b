"""A second optimiser: L-BFGS on the likelihood itself, to tell error of the optimiser from error of the estimate."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor

from gatescope.mixtures.em import MIN_SCALE, Fit
from gatescope.mixtures.mixture import GaussianMoE

#: Largest entry of the gradient, nats a sample, that counts as the top where the line search gives up.
_FLAT_ENOUGH = 1e-5


def polish(fit: Fit, x: Float[Tensor, "R n D"], y: Float[Tensor, "R n"], *, iterations: int = 500) -> Fit:
    """Go on from the end of ``fit`` with L-BFGS (scipy), gradients by autograd; a run that ends lower keeps its start.

    For a top-K gate the gradient is that of the region the parameters lie in, and a line search may step across.

    Source: Byrd, Lu, Nocedal, Zhu 1995, A Limited Memory Algorithm for Bound Constrained Optimization.
    """
    n, ends, values, steps, finished = x.shape[1], [], [], [], []
    for replicate in range(x.shape[0]):
        own = fit.mixture.at(slice(replicate, replicate + 1))
        data = x[replicate : replicate + 1], y[replicate : replicate + 1]
        first = flat_parameters(own)[0].numpy()

        def loss(
            flat: np.ndarray, own: GaussianMoE = own, data: tuple[Tensor, Tensor] = data
        ) -> tuple[float, np.ndarray]:
            free = torch.tensor(flat[None], requires_grad=True)
            value = -mixture_of(free, own).log_density(*data).mean()
            value.backward()
            assert free.grad is not None
            return float(value.detach()), free.grad[0].numpy()

        bounds = [(None, None)] * (len(first) - own.n_experts) + [(math.log(MIN_SCALE), None)] * own.n_experts
        found = minimize(
            loss,
            first,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": iterations, "ftol": 1e-12, "gtol": 1e-7},
        )
        before = float(fit.log_likelihood[replicate])
        better = -found.fun * n > before
        ends.append(mixture_of(torch.tensor(found.x if better else first)[None], own))
        values.append(max(-found.fun * n, before))
        steps.append(int(found.nit))
        finished.append(bool(found.success) or float(np.abs(found.jac).max()) < _FLAT_ENOUGH)
    joined = (torch.cat(parts) for parts in zip(*(end.tensors() for end in ends), strict=True))
    total = torch.tensor(values, dtype=x.dtype)
    return Fit(
        GaussianMoE(fit.mixture.router, *joined),
        total,
        torch.tensor(steps),
        torch.tensor(finished),
        torch.stack([fit.log_likelihood, total]),
    )


def flat_parameters(mixture: GaussianMoE) -> Float[Tensor, "R P"]:
    """The free parameters: w and b of all experts but the last, log tau where it is learned, then a, c and log s."""
    free = mixture.n_experts - 1
    parts = [mixture.gate_slope[:, :free], mixture.gate_bias[:, :free]]
    parts += [mixture.log_temperature] if mixture.router.temperature == "learned" else []
    parts += [mixture.slope, mixture.intercept, mixture.log_scale]
    return torch.cat([part.reshape(len(mixture.slope), -1) for part in parts], -1)


def mixture_of(flat: Float[Tensor, "R P"], like: GaussianMoE) -> GaussianMoE:
    """The mixtures whose free parameters are ``flat``: the inverse of `flat_parameters`, gradients kept.

    What is not free is as in ``like``, which has R replicates or one.
    """
    count, experts, inputs = len(flat), like.n_experts, like.slope.shape[-1]
    free, learned = experts - 1, like.router.temperature == "learned"
    sizes = [free * inputs, free, int(learned), experts * inputs, experts, experts]
    gate, bias, log_tau, slope, intercept, log_scale = flat.split(sizes, -1)
    return GaussianMoE(
        like.router,
        torch.cat([gate.view(count, free, inputs), flat.new_zeros(count, 1, inputs)], 1),
        torch.cat([bias, flat.new_zeros(count, 1)], 1),
        log_tau[:, 0] if learned else like.log_temperature.expand(count),
        slope.view(count, experts, inputs),
        intercept,
        log_scale,
    )
