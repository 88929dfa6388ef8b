"""EM climbs, ends where the gradient vanishes, and agrees with least squares, a plain Gaussian mixture and L-BFGS."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gatescope.errors import NonFiniteError, Refusal
from gatescope.mixtures import GaussianMoE, RouterSpec, fisher_information, fit_em, polish
from gatescope.mixtures.polish import flat_parameters, mixture_of
from scipy.stats import norm

from .conftest import data, mixture


def started(router: RouterSpec, n: int = 300, replicates: int = 3):
    truth = mixture(router)
    x, y = data(truth, n, replicates)
    generator = torch.Generator().manual_seed(5)
    moved = [
        tensor + 0.2 * torch.randn(replicates, *tensor.shape[1:], generator=generator, dtype=tensor.dtype)
        for tensor in truth.tensors()
    ]
    moved[0][:, -1], moved[1][:, -1] = 0, 0
    return GaussianMoE(router, *moved), x, y


def test_the_likelihood_never_falls(router):
    start, x, y = started(router)
    fit = fit_em(start, x, y, iterations=60)
    gained = fit.history.diff(dim=0)
    assert float(gained[~gained.isnan()].min()) > -1e-8
    assert (fit.log_likelihood > start.log_density(x, y).sum(-1)).all()
    torch.testing.assert_close(fit.log_likelihood, fit.mixture.log_density(x, y).sum(-1))


def test_em_ends_where_the_gradient_vanishes(router):
    start, x, y = started(router)
    fit = fit_em(start, x, y, iterations=3000, tolerance=1e-10)
    assert fit.converged.all()
    for replicate in range(3):
        own = fit.mixture.map(lambda t, at=replicate: t[at : at + 1])
        free = flat_parameters(own).requires_grad_()
        mixture_of(free, own).log_density(x[replicate : replicate + 1], y[replicate : replicate + 1]).mean().backward()
        # A cut gate may end at an edge, where two experts change places and the likelihood jumps down.
        gate = 4 if router.k in (1, 2) else 0
        assert float(free.grad[0, gate:].abs().max()) < 1e-4


def test_l_bfgs_goes_no_lower_and_where_em_has_ended_no_higher(router):
    start, x, y = started(router, replicates=2)
    short, long = fit_em(start, x, y, iterations=5), fit_em(start, x, y, iterations=3000, tolerance=1e-10)
    assert (polish(short, x, y).log_likelihood >= short.log_likelihood).all()
    assert float((polish(long, x, y).log_likelihood - long.log_likelihood).max()) < 1e-3


def test_fitting_together_is_fitting_alone():
    start, x, y = started(RouterSpec(k=2))
    together = fit_em(start, x, y, iterations=40)
    for replicate in range(3):
        at = slice(replicate, replicate + 1)
        alone = fit_em(start.map(lambda t, at=at: t[at]), x[at], y[at], iterations=40)
        torch.testing.assert_close(alone.mixture.slope, together.mixture.slope[at])
        assert alone.iterations == together.iterations[at]


def test_one_expert_is_least_squares():
    start, x, y = started(RouterSpec(), replicates=1)
    one = start.experts([2])
    fit = fit_em(one, x, y)
    slope, intercept = np.polyfit(x[0, :, 0].numpy(), y[0].numpy(), 1)
    assert float(fit.mixture.slope) == pytest.approx(slope)
    assert float(fit.mixture.intercept) == pytest.approx(intercept)
    residual = y[0].numpy() - slope * x[0, :, 0].numpy() - intercept
    assert float(fit.mixture.log_scale.exp()) == pytest.approx(residual.std())


def test_without_inputs_it_is_a_plain_gaussian_mixture():
    start, x, y = started(RouterSpec(), n=500, replicates=1)
    fit = fit_em(start, 0 * x, y, iterations=2000, tolerance=1e-9)
    values, share, mean, scale = y[0].numpy(), np.full(3, 1 / 3), start.intercept[0].numpy(), np.full(3, 0.5)
    for _ in range(3000):
        joint = share * norm.pdf(values[:, None], mean, scale)
        weight = joint / joint.sum(1, keepdims=True)
        share, mean = weight.mean(0), (weight * values[:, None]).sum(0) / weight.sum(0)
        scale = np.sqrt((weight * (values[:, None] - mean) ** 2).sum(0) / weight.sum(0))
    assert float(fit.log_likelihood) == pytest.approx(np.log(joint.sum(1)).sum(), abs=1e-3)
    np.testing.assert_allclose(fit.mixture.intercept[0], mean, atol=1e-2)


def test_top_k_gains_over_the_dense_gate_on_its_own_data():
    start, x, y = started(RouterSpec(k=2), n=2000, replicates=1)
    own = fit_em(start, x, y)
    dense = fit_em(start.experts(range(3), RouterSpec()), x, y)
    assert float(own.log_likelihood - dense.log_likelihood) > 5


def test_the_information_is_the_mean_outer_product_of_finite_difference_scores():
    own = mixture(RouterSpec(activation="tanh", temperature="learned"))
    x, y = data(own, 6)
    flat = flat_parameters(own)
    steps = 1e-6 * torch.eye(flat.shape[1], dtype=torch.float64)
    scores = torch.stack(
        [
            (mixture_of(flat + h, own).log_density(x, y) - mixture_of(flat - h, own).log_density(x, y))[0] / 2e-6
            for h in steps
        ]
    )
    torch.testing.assert_close(fisher_information(own, x, y), scores @ scores.T / 6, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("activation", "blind"), [("identity", True), ("relu", True), ("tanh", False)])
def test_a_homogeneous_gate_has_a_direction_without_information(activation, blind):
    own = mixture(RouterSpec(activation=activation, temperature="learned"))
    x, y = data(own, 2000)
    smallest = float(torch.linalg.eigvalsh(fisher_information(own, x, y))[0])
    assert (abs(smallest) < 1e-12) == blind


def test_data_that_cannot_be_fitted_are_refused():
    start, x, y = started(RouterSpec())
    with pytest.raises(Refusal, match="at least 3 samples"):
        fit_em(start, x[:, :2], y[:, :2])
    with pytest.raises(Refusal, match="one start for every data set"):
        fit_em(start, x[:2], y[:2])
    with pytest.raises(NonFiniteError, match="finite x and y"):
        fit_em(start, x, y * torch.inf)


@pytest.mark.parametrize("n", [3, 4, 6])
def test_a_handful_of_samples_gives_finite_numbers(router, n):
    start, x, y = started(router, n=n)
    fit = fit_em(start, x, y)
    assert all(torch.isfinite(tensor).all() for tensor in fit.mixture.tensors())
    assert torch.isfinite(fit.log_likelihood).all()
