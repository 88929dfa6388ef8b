"""Every row against an independent oracle, its gradient, and its potential; what sums to one and what has zeros."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gatescope.errors import Refusal
from gatescope.normalisers import NORMALISERS, NormaliserSpec, entropy, entropy_floor, normalise, potential, state_size
from scipy.optimize import brentq, minimize

SPECS = [
    NormaliserSpec(),
    NormaliserSpec("off_by_one"),
    NormaliserSpec("learned_sink"),
    NormaliserSpec("learned_sink", 1.3),
    NormaliserSpec("sparsemax"),
    NormaliserSpec("entmax"),
    NormaliserSpec("entmax", 1.2),
    NormaliserSpec("entmax", 2.0),
    NormaliserSpec("entmax", 3.0),
    NormaliserSpec("sigmoid"),
    NormaliserSpec("sigmoid", -1.0),
]
ALPHAS = {"sparsemax": 2.0, "entmax": 1.5}
everywhere = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.name} {spec.parameter}")


def scores(*shape: int, seed: int = 0, scale: float = 1.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def oracle(row: np.ndarray, spec: NormaliserSpec) -> np.ndarray:
    """The equation of the row, spelled without torch; thresholds by Brent's method."""
    if spec.name in ALPHAS:
        alpha = spec.parameter or ALPHAS[spec.name]
        z = (alpha - 1) * row

        def weights(tau: float) -> np.ndarray:
            return np.clip(z - tau, 0, None) ** (1 / (alpha - 1))

        return weights(brentq(lambda tau: weights(tau).sum() - 1, z.max() - 1, z.max(), xtol=1e-15))
    if spec.name == "sigmoid":
        bias = -math.log(len(row)) if spec.parameter is None else spec.parameter
        return np.array([1 / (1 + math.exp(-s - bias)) for s in row])
    sink = {"softmax": 0.0, "off_by_one": 1.0, "learned_sink": math.exp(spec.parameter or 0.0)}[spec.name]
    return np.array([math.exp(s) for s in row]) / (sink + sum(math.exp(s) for s in row))


def test_the_specs_of_this_test_are_those_of_the_table():
    assert {spec.name for spec in SPECS} == set(NORMALISERS)


@everywhere
def test_weights_are_those_of_the_equation(spec):
    rows = scores(7, 9)
    wanted = np.stack([oracle(row, spec) for row in rows.numpy()])
    np.testing.assert_allclose(normalise(rows, spec).numpy(), wanted, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(normalise(rows.float(), spec).numpy(), wanted, rtol=3e-4, atol=2e-6)


@everywhere
def test_weights_are_the_gradient_of_the_potential(spec):
    rows = scores(5, 8, seed=1).requires_grad_()
    (slope,) = torch.autograd.grad(potential(rows, spec).sum(), rows)
    torch.testing.assert_close(slope, normalise(rows, spec))
    moved = 1e-6 * scores(5, 8, seed=2)
    rise = potential(rows + moved, spec) - potential(rows - moved, spec)
    torch.testing.assert_close(rise, 2 * (slope * moved).sum(-1), rtol=1e-4, atol=1e-10)


@everywhere
def test_gradients(spec):
    # Away from the places where an entry enters the support, where sparse rows have a kink.
    assert torch.autograd.gradcheck(lambda x: normalise(x, spec), scores(3, 6, seed=3).requires_grad_())


@everywhere
def test_a_hidden_score_changes_nothing_else(spec):
    rows = scores(4, 6, seed=4)
    hidden = torch.cat([rows, torch.full((4, 2), -torch.inf, dtype=rows.dtype)], -1)
    torch.testing.assert_close(normalise(hidden, spec)[:, :6], normalise(rows, spec))
    assert not normalise(hidden, spec)[:, 6:].any()


@everywhere
def test_sums_and_zeros(spec):
    weights = normalise(scores(50, 40, seed=5, scale=3), spec)
    total = weights.sum(-1)
    if spec.name in {"softmax", *ALPHAS}:
        torch.testing.assert_close(total, torch.ones_like(total))
    elif spec.name != "sigmoid":
        assert (total < 1).all()
    zeros = (weights == 0).double().mean()
    assert zeros > 0.3 if spec.name in ALPHAS else zeros == 0


def test_sparsemax_is_the_nearest_point_of_the_simplex():
    row = scores(1, 5, seed=6)[0].numpy()
    found = minimize(
        lambda p: ((p - row) ** 2).sum(),
        np.full(5, 0.2),
        bounds=[(0, 1)] * 5,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        options={"ftol": 1e-14},
    )
    np.testing.assert_allclose(normalise(torch.tensor(row)[None], NormaliserSpec("sparsemax"))[0], found.x, atol=1e-6)


def test_bisection_meets_the_sorted_solutions_and_softmax():
    rows = scores(20, 30, seed=7)
    for near, exact in ((1.500001, NormaliserSpec("entmax")), (2.000001, NormaliserSpec("sparsemax"))):
        torch.testing.assert_close(normalise(rows, NormaliserSpec("entmax", near)), normalise(rows, exact), atol=1e-5,
                                   rtol=0)  # fmt: skip
    torch.testing.assert_close(normalise(rows, NormaliserSpec("entmax", 1.00001)), rows.softmax(-1), atol=1e-3, rtol=0)


def test_equal_scores_and_a_single_one():
    for spec in SPECS:
        weights = normalise(torch.zeros(1, 4, dtype=torch.float64), spec)
        assert float(weights.std()) == pytest.approx(0, abs=1e-12)
        assert torch.isfinite(normalise(torch.full((1, 1), 700.0), spec)).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("hardmax",), "a name in"),
        (("softmax", 1.0), "no parameter for softmax"),
        (("entmax", 1.0), "alpha = 1 is softmax"),
        (("entmax", 9.0), "up to 4"),
        (("sigmoid", math.inf), "a finite bias b"),
    ],
)
def test_refusals(given, words):
    with pytest.raises(Refusal, match=words):
        NormaliserSpec(*given)


def test_entropy_and_state_size_of_known_rows():
    rows = torch.tensor([[1, 0, 0, 0], [0.25] * 4, [0.5, 0.4, 0.1, 0], [0, 0, 0, 0]], dtype=torch.float64)
    wanted = [0, math.log(4), -(0.5 * math.log(0.5) + 0.4 * math.log(0.4) + 0.1 * math.log(0.1)), 0]
    assert entropy(rows).tolist() == pytest.approx(wanted)
    assert state_size(rows).tolist() == [1, 4, 2, 0]
    assert state_size(rows[:, [3, 1, 0, 2]], mass=0.95).tolist() == [1, 4, 3, 0]
    assert entropy(0.2 * rows)[1] == pytest.approx(math.log(4)), "a row is read as shares of its own sum"
    assert int(state_size(torch.full((1, 10), 0.1), mass=0.9)) == 9, "0.9 is reached in single precision too"
    with pytest.raises(Refusal, match="a share of the mass"):
        state_size(rows, mass=1.0)


def test_no_softmax_of_such_scores_has_less_entropy_and_one_attains_it():
    n, norm = 6, 3.0
    rows = scores(4000, n, seed=8)
    rows = norm * (rows / rows.norm(dim=-1, keepdim=True))
    floor = entropy_floor(torch.tensor(norm, dtype=torch.float64), n)
    assert (entropy(rows.softmax(-1)) >= floor).all()
    worst = torch.full((n,), -norm / math.sqrt(n * (n - 1)), dtype=torch.float64)
    worst[0] = norm * math.sqrt((n - 1) / n)
    assert float(worst.norm()) == pytest.approx(norm)
    assert float(entropy(worst.softmax(-1))) == pytest.approx(float(floor))
    assert float(entropy_floor(torch.tensor(0.0), 5)) == pytest.approx(math.log(5))
    assert float(entropy_floor(torch.tensor(2.0), 1)) == 0
    assert float(entropy_floor(torch.tensor(500.0), 5)) == pytest.approx(0, abs=1e-9)
    with pytest.raises(Refusal, match="n >= 1"):
        entropy_floor(torch.tensor(-1.0), 4)
