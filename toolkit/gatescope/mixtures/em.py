"""Maximum likelihood by expectation maximisation, for R data sets at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gatescope.errors import NonFiniteError, Refusal
from gatescope.mixtures.mixture import GaussianMoE
from gatescope.mixtures.router import ROUTER_ACTIVATIONS

#: Scales are kept above this: one expert on one sample would have an infinite likelihood.
MIN_SCALE = 0.05
_HALVINGS = 6
_RIDGE = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """What `fit_em` or `polish` ended with.

    mixture         the R fits
    log_likelihood  sum over samples of log p(y | x), nats [R]
    iterations      steps taken [R]
    converged       False where the cap ended the run: what is left is then error of the optimiser too [R]
    history         log-likelihood after every step [steps R], NaN after a run ended
    """

    mixture: GaussianMoE
    log_likelihood: Float[Tensor, " R"]
    iterations: Int[Tensor, " R"]
    converged: Bool[Tensor, " R"]
    history: Float[Tensor, "steps R"]


@torch.no_grad()
def fit_em(
    start: GaussianMoE,
    x: Float[Tensor, "R n D"],
    y: Float[Tensor, "R n"],
    *,
    iterations: int = 500,
    tolerance: float = 1e-5,
) -> Fit:
    """Climb the likelihood from ``start``; it never falls.

        r_e = pi_e N_e / sum pi N                                   E step
        (a_e, c_e) = weighted least squares, s_e^2 = weighted residual    M step of the experts, exact
        gate: one Newton step on sum r log pi, with the Fisher matrix of the softmax; halved until the likelihood of
        the data does not fall, given up after six halvings

    Judged by the likelihood itself, a gate step may also change who is in the top K, where sum r log pi is -inf.
    A run has converged when a step gains less than ``tolerance`` nats over all its samples.

    Raises Refusal for data that do not fit ``start``, NonFiniteError for NaN or infinity in them.

    Source: Jordan and Jacobs 1994, Hierarchical Mixtures of Experts and the EM Algorithm.
    """
    _check(start, x, y)
    mixture, log_pi, log_n = start, start.log_weights(x), start.log_normal(x, y)
    live = torch.arange(x.shape[0])
    final = [tensor.clone() for tensor in start.tensors()]
    steps, converged = torch.zeros(len(live), dtype=torch.long), torch.zeros(len(live), dtype=torch.bool)
    best = torch.logsumexp(log_pi + log_n, -1).sum(-1)
    total = best.clone()
    history = torch.full((iterations + 1, len(live)), math.nan, dtype=x.dtype)
    history[0] = best
    for step in range(1, iterations + 1):
        joint = log_pi + log_n
        weight = (joint - torch.logsumexp(joint, -1, keepdim=True)).exp()
        mixture = _expert_step(mixture, x, y, weight)
        log_n = mixture.log_normal(x, y)
        mixture, log_pi, best_now = _gate_step(mixture, x, weight, log_pi, log_n)
        gained, best = best_now - best, best_now
        for kept, tensor in zip(final, mixture.tensors(), strict=True):
            kept[live] = tensor
        total[live], history[step, live], steps[live] = best, best, step
        done = gained < tolerance
        converged[live[done]] = True
        if done.all():
            break
        if done.any():
            stay = ~done
            mixture, live = mixture.at(stay), live[stay]
            x, y, log_pi, log_n, best = x[stay], y[stay], log_pi[stay], log_n[stay], best[stay]
    return Fit(GaussianMoE(start.router, *final), total, steps, converged, history[: int(steps.max()) + 1])


def _expert_step(mixture: GaussianMoE, x: Tensor, y: Tensor, weight: Tensor) -> GaussianMoE:
    design = torch.cat([x, torch.ones_like(x[..., :1])], -1)
    left = torch.einsum("rne,rnp,rnq->repq", weight, design, design)
    right = torch.einsum("rne,rnp,rn->rep", weight, design, y)
    mass = weight.sum(1)
    # An expert that no sample visits keeps what it has.
    alive = mass > design.shape[-1]
    ridge = _RIDGE * torch.eye(design.shape[-1], dtype=x.dtype)
    solved = torch.linalg.solve(
        torch.where(alive[..., None, None], left + ridge, torch.eye(len(ridge)).to(left)), right
    )
    residual = y[..., None] - torch.einsum("rnp,rep->rne", design, solved)
    variance = (weight * residual**2).sum(1) / mass.clamp_min(1.0)
    log_scale = 0.5 * variance.clamp_min(MIN_SCALE**2).log()
    return GaussianMoE(
        mixture.router,
        mixture.gate_slope,
        mixture.gate_bias,
        mixture.log_temperature,
        torch.where(alive[..., None], solved[..., :-1], mixture.slope),
        torch.where(alive, solved[..., -1], mixture.intercept),
        torch.where(alive, log_scale, mixture.log_scale),
    )


def _gate_step(
    mixture: GaussianMoE, x: Tensor, weight: Tensor, log_pi: Tensor, log_n: Tensor
) -> tuple[GaussianMoE, Tensor, Tensor]:
    kept = torch.logsumexp(log_pi + log_n, -1).sum(-1)
    direction = _newton(mixture, x, weight, log_pi)
    best, waiting, size = mixture, torch.ones_like(kept, dtype=torch.bool), 1.0
    for _ in range(_HALVINGS):
        tried = _moved(mixture, direction, size)
        pi = tried.log_weights(x)
        found = torch.logsumexp(pi + log_n, -1).sum(-1)
        better = waiting & (found >= kept)
        log_pi = torch.where(better[:, None, None], pi, log_pi)
        best = _choose(better, tried, best)
        kept, waiting = torch.where(better, found, kept), waiting & ~better
        if not waiting.any():
            break
        size /= 2
    return best, log_pi, kept


def _newton(mixture: GaussianMoE, x: Tensor, weight: Tensor, log_pi: Tensor) -> Tensor:
    """The step of (w_e, b_e) of all experts but the last and, where learned, of log tau: [R P]."""
    router, pi, free = mixture.router, log_pi.exp(), mixture.n_experts - 1
    z = torch.einsum("rnd,red->rne", x, mixture.gate_slope)
    cold = torch.exp(-mixture.log_temperature)[:, None, None, None]
    slope = ROUTER_ACTIVATIONS[router.activation][1](z)[..., None] * x[:, :, None]
    own = (torch.cat([slope, torch.ones_like(z)[..., None]], -1) * cold)[:, :, :free]
    replicates, n, _, width = own.shape
    error = weight - pi
    gradient = torch.einsum("rne,rnep->rep", error[..., :free], own).flatten(1)
    pulled = (pi[..., :free, None] * own).reshape(replicates, n, free * width)
    fisher = -pulled.mT @ pulled
    block = torch.einsum("rne,rnep,rneq->repq", pi[..., :free], own, own)
    for expert in range(free):
        place = slice(expert * width, (expert + 1) * width)
        fisher[:, place, place] += block[:, expert]
    if router.temperature == "learned":
        cooled = -router.logits(z, mixture.gate_bias, mixture.log_temperature)
        mean = (pi * cooled).sum(-1)
        across = torch.einsum("rne,rnep->rep", pi[..., :free] * (cooled - mean[..., None])[..., :free], own).flatten(1)
        corner = (pi * (cooled - mean[..., None]) ** 2).sum((1, 2))
        fisher = torch.cat(
            [torch.cat([fisher, across[..., None]], -1), torch.cat([across, corner[:, None]], -1)[:, None]], 1
        )
        gradient = torch.cat([gradient, (error * cooled).sum((1, 2))[:, None]], -1)
    if gradient.shape[-1] == 0:
        return gradient
    size = fisher.diagonal(dim1=-2, dim2=-1).amax(-1).clamp_min(1e-12)
    ridge = (1e-8 * size)[:, None, None] * torch.eye(fisher.shape[-1], dtype=x.dtype)
    return torch.linalg.solve(fisher + ridge, gradient)


def _moved(mixture: GaussianMoE, direction: Tensor, size: float) -> GaussianMoE:
    free, width = mixture.n_experts - 1, mixture.slope.shape[-1] + 1
    gates = direction[:, : free * width].view(len(direction), free, width) * size
    slope, bias = mixture.gate_slope.clone(), mixture.gate_bias.clone()
    slope[:, :free] += gates[..., :-1]
    bias[:, :free] += gates[..., -1]
    log_temperature = mixture.log_temperature
    if mixture.router.temperature == "learned":
        log_temperature = log_temperature + size * direction[:, -1].clamp(-1.0, 1.0)
    return GaussianMoE(
        mixture.router, slope, bias, log_temperature, mixture.slope, mixture.intercept, mixture.log_scale
    )


def _choose(first: Tensor, left: GaussianMoE, right: GaussianMoE) -> GaussianMoE:
    picked = (
        torch.where(first.view(-1, *[1] * (a.ndim - 1)), a, b)
        for a, b in zip(left.tensors(), right.tensors(), strict=True)
    )
    return GaussianMoE(left.router, *picked)


def _check(start: GaussianMoE, x: Tensor, y: Tensor) -> None:
    replicates, _, inputs = start.slope.shape
    if x.shape[0] != replicates or x.shape[-1] != inputs or y.shape != x.shape[:2]:
        wanted = f"x [R n D] = ({replicates}, n, {inputs}) and y [R n]"
        raise Refusal("fit_em", wanted, f"{tuple(x.shape)} and {tuple(y.shape)}", "one start for every data set")
    least = inputs + 2
    if x.shape[1] < least:
        raise Refusal("fit_em", f"at least {least} samples", f"{x.shape[1]}", "a line and its noise need that many")
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise NonFiniteError("fit_em", "finite x and y", "NaN or infinity", "clean the data first")
