"""Density, samples and gates against numpy, scipy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gatescope.errors import NonFiniteError, Refusal
from gatescope.mixtures import GaussianMoE, RouterSpec, hellinger
from jaxtyping import TypeCheckError
from scipy.special import expit, softmax
from scipy.stats import norm

from .conftest import data, mixture

ACT = {"identity": lambda z: z, "relu": lambda z: np.maximum(z, 0), "tanh": np.tanh, "sigmoid": expit}


def by_hand(own: GaussianMoE, x: np.ndarray, y: float) -> float:
    """log p(y | x) of the first mixture, one expert after the other."""
    w, b, log_tau, a, c, log_s = (tensor[0].numpy() for tensor in own.tensors())
    z = w @ x
    kept = np.argsort(-z)[: own.router.k or len(z)]
    weights = softmax((ACT[own.router.activation](z[kept]) + b[kept]) / np.exp(log_tau))
    return np.log(sum(p * norm.pdf(y, a[e] @ x + c[e], np.exp(log_s[e])) for p, e in zip(weights, kept, strict=True)))


@pytest.mark.parametrize("inputs", [1, 3])
def test_log_density_is_that_of_scipy(router, inputs):
    own = mixture(router, inputs)
    x, y = data(own, 40)
    expected = [by_hand(own, x[0, i].numpy(), float(y[0, i])) for i in range(40)]
    np.testing.assert_allclose(own.log_density(x, y)[0], expected, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_finite_differences(router):
    own = mixture(router)
    x, y = data(own, 12)
    off_the_kink = GaussianMoE(router, own.gate_slope + 0.3, *own.tensors()[1:])  # ReLU has none at w = 0
    parameters = [tensor.requires_grad_() for tensor in off_the_kink.tensors()]
    assert torch.autograd.gradcheck(lambda *t: GaussianMoE(router, *t).log_density(x, y).sum(), parameters)


def test_the_top_k_gate_is_neither_dense_nor_ranked_by_the_bias():
    own = mixture(RouterSpec(k=2), inputs=2)
    x, _ = data(own, 200)
    weights = own.log_weights(x).exp()
    assert ((weights > 0).sum(-1) == 2).all()
    dense = own.experts(range(3), RouterSpec())
    assert float((weights - dense.log_weights(x).exp()).abs().max()) > 0.05
    lifted = GaussianMoE(own.router, own.gate_slope, own.gate_bias + torch.tensor([5.0, 0, 0]), *own.tensors()[2:])
    assert torch.equal(lifted.log_weights(x) > -torch.inf, own.log_weights(x) > -torch.inf)


@pytest.mark.parametrize("k", [3, 7])
def test_as_many_as_there_are_is_the_dense_gate(k):
    own = mixture(RouterSpec())
    x, _ = data(own, 50)
    assert torch.equal(own.experts(range(3), RouterSpec(k=k)).log_weights(x), own.log_weights(x))


@pytest.mark.parametrize(
    ("activation", "same"), [("identity", True), ("relu", True), ("tanh", False), ("sigmoid", False)]
)
def test_temperature_hides_behind_homogeneous_gates_only(activation, same):
    router = RouterSpec(activation=activation, temperature="learned")
    own = mixture(router)
    x, _ = data(own, 50)
    scaled = GaussianMoE(
        router, 2 * own.gate_slope, 2 * own.gate_bias, own.log_temperature + np.log(2), *own.tensors()[3:]
    )
    assert router.homogeneous == same
    assert torch.allclose(own.log_weights(x), scaled.log_weights(x), atol=1e-12) == same


def test_samples_have_the_mean_of_the_mixture(router):
    own = mixture(router)
    x = torch.full((1, 20_000, 1), 0.7, dtype=torch.float64)
    y = own.sample(x, torch.Generator().manual_seed(3))
    mean = (own.log_weights(x[:, :1]).exp()[0, 0] * (0.7 * own.slope[0, :, 0] + own.intercept[0])).sum()
    assert float((y.mean() - mean).abs()) < 4 * float(y.std()) / 20_000**0.5


def test_hellinger_of_two_gaussians_is_the_closed_form():
    def one(mean: float, scale: float) -> GaussianMoE:
        zero = torch.zeros(1, 1, 1, dtype=torch.float64)
        value = torch.tensor([[mean]], dtype=torch.float64)
        return GaussianMoE(
            RouterSpec(), zero, zero[0], zero[0, 0], zero, value, torch.tensor([[scale]], dtype=torch.float64).log()
        )

    squared = 1 - np.sqrt(2 * 0.5 * 0.8 / (0.25 + 0.64)) * np.exp(-0.25 * 1.2**2 / (0.25 + 0.64))
    found = hellinger(one(0.0, 0.5), one(1.2, 0.8), torch.zeros(3, 1, dtype=torch.float64))
    assert float(found[0]) == pytest.approx(np.sqrt(squared), abs=1e-6)
    assert float(hellinger(one(0.3, 0.5), one(0.3, 0.5), torch.zeros(1, 1, dtype=torch.float64))[0]) < 1e-6


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"k": 0}, "k >= 1"), ({"activation": "swish"}, "activation in"), ({"temperature": "warm"}, "temperature")],
)
def test_gates_that_are_none_are_refused(wrong, said):
    with pytest.raises((Refusal, TypeCheckError), match=said):
        RouterSpec(**wrong)


def test_nan_and_shapes_that_do_not_fit_are_refused():
    own = mixture(RouterSpec())
    x, y = data(own, 5)
    with pytest.raises(NonFiniteError, match="log_density"):
        own.log_density(x, y * torch.nan)
    with pytest.raises((Refusal, TypeCheckError), match="log_scale"):  # the shape checker of tests may be faster
        GaussianMoE(own.router, *own.tensors()[:5], own.log_scale[:, :2])
