"""The update is attention, the energy falls, and what is proved of one update holds."""

from __future__ import annotations

import math

import pytest
import torch
from gatescope.errors import Refusal
from gatescope.hopfield import capacity, energy, retrieval_bound, retrieve, retrieved_share, separation, sphere, update
from gatescope.normalisers import NORMALISERS, NormaliserSpec, entropy
from torch.nn import functional

N, D = 30, 12
ROWS = [NormaliserSpec(name) for name in NORMALISERS]


def memory(seed: int = 0, n: int = N, d: int = D) -> tuple[torch.Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    return sphere(n, d, math.sqrt(d - 1), generator), generator


def near(stored: torch.Tensor, generator: torch.Generator, away: float) -> torch.Tensor:
    noise = torch.randn(stored.shape, generator=generator, dtype=stored.dtype)
    return stored + away * noise / noise.norm(dim=-1, keepdim=True)


def test_one_update_is_scaled_dot_product_attention():
    stored, generator = memory()
    state = near(stored, generator, 2.0)
    attention = functional.scaled_dot_product_attention(state[None], stored[None], stored[None], scale=0.7)[0]
    torch.testing.assert_close(update(state, stored, 0.7), attention)


@pytest.mark.parametrize("spec", ROWS, ids=lambda spec: spec.name)
def test_no_update_raises_the_energy_and_rest_is_where_its_gradient_is_zero(spec):
    stored, generator = memory()
    state = torch.randn(20, D, generator=generator, dtype=torch.float64)
    for beta in (0.05, 0.5, 2.0):
        found = retrieve(state, stored, beta, spec, updates=3000, tolerance=1e-10)
        assert found.at_rest
        assert float(found.energies.diff(dim=0).max()) < 1e-10
        assert float(found.energies[0].sub(found.energies[-1]).min()) > 0
        rest = found.state.clone().requires_grad_()
        (slope,) = torch.autograd.grad(energy(rest, stored, beta, spec).sum(), rest)
        assert float(slope.abs().max()) < 1e-7
        torch.testing.assert_close(slope + update(found.state, stored, beta, spec), found.state)


def test_the_energy_is_the_equation_and_never_negative():
    stored, generator = memory()
    state = torch.randn(1, D, generator=generator, dtype=torch.float64)
    beta, x = 0.8, state[0]
    lse = math.log(sum(math.exp(beta * float(pattern @ x)) for pattern in stored)) / beta
    wanted = -lse + float(x @ x) / 2 + math.log(N) / beta + (D - 1) / 2
    assert float(energy(state, stored, beta)) == pytest.approx(wanted)
    assert (energy(10 * torch.randn(200, D, generator=generator, dtype=torch.float64), stored, beta) >= 0).all()


def test_beta_goes_from_the_mean_to_one_pattern():
    stored, generator = memory()
    state = near(stored, generator, 0.5)
    small = retrieve(state, stored, 1e-3, updates=200, tolerance=1e-12)
    torch.testing.assert_close(small.state, stored.mean(0).expand_as(stored), atol=1e-2, rtol=0)
    assert float(entropy(small.weights).min()) > 0.99 * math.log(N)
    large = retrieve(state, stored, 30.0, updates=1)
    torch.testing.assert_close(large.state, stored, atol=1e-6, rtol=0)
    assert float(entropy(large.weights).max()) < 1e-6


def test_two_near_patterns_share_a_metastable_state():
    stored = torch.tensor([[5.0, 0.4], [5.0, -0.4], [-5.0, 0.0]], dtype=torch.float64)
    found = retrieve(stored[:1], stored, 0.5, updates=500, tolerance=1e-12)
    torch.testing.assert_close(found.state, torch.tensor([[5.0, 0.0]], dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.weights[0, :2], torch.tensor([0.5, 0.5], dtype=torch.float64), atol=1e-6, rtol=0)


def test_separation_is_that_of_the_definition_and_the_bound_holds():
    stored, generator = memory(seed=3)
    wanted = [min(float(x @ x - x @ y) for j, y in enumerate(stored) if j != i) for i, x in enumerate(stored)]
    assert separation(stored).tolist() == pytest.approx(wanted)
    useful = 0
    for beta in (1.0, 3.0):
        for away in (0.0, 0.2, 1.0):
            state = near(stored, generator, away)
            error = (update(state, stored, beta) - stored).norm(dim=-1)
            bound = retrieval_bound(state, stored, torch.arange(N), beta)
            assert (error <= bound).all()
            useful += int((bound < 0.1).sum())
    assert useful > 20, "a bound above 2 M says nothing"


def test_sparse_memories_return_the_pattern_itself_where_softmax_leaves_an_error():
    stored, generator = memory(seed=4)
    state = near(stored, generator, 0.5)
    for name in ("sparsemax", "entmax"):
        exact = (update(state, stored, 1.0, NormaliserSpec(name)) == stored).all(-1)
        assert exact.double().mean() > 0.9
    assert not (update(state, stored, 1.0) == stored).all(-1).any()


def test_shares_of_growing_memories_are_those_of_each_alone():
    stored, _ = memory(seed=5, n=400, d=16)
    visible = torch.arange(16) < 8
    sizes = [3, 20, 400]
    together = retrieved_share(stored, visible, 1.0, sizes, queries=40)
    for size, share in zip(sizes, together, strict=True):
        own = stored[: min(size, 40)]
        error = (update(own * visible, stored[:size], 1.0) - own).norm(dim=-1) / math.sqrt(15)
        assert share == pytest.approx(float((error <= 0.1).double().mean()))
    assert together[0] > together[-1]


def test_capacity_lies_where_the_share_falls_through_the_level():
    assert capacity([10, 100, 1000], [1.0, 1.0, 0.0], 0.5) == pytest.approx(10**2.5)
    assert math.isnan(capacity([10, 100], [0.4, 0.2], 0.5))
    assert math.isnan(capacity([10, 100], [0.9, 0.8], 0.5))


def test_refusals():
    stored, _ = memory()
    for beta in (0.0, -1.0, math.nan):
        with pytest.raises(Refusal, match="a finite beta above 0"):
            update(stored, stored, beta)
    with pytest.raises(Refusal, match="at least one update"):
        retrieve(stored, stored, 1.0, updates=0)
    with pytest.raises(Refusal, match="two patterns"):
        separation(stored[:1])
    with pytest.raises(Refusal, match="sizes that ascend"):
        retrieved_share(stored, torch.ones(D, dtype=torch.bool), 1.0, [5, 4])
    with pytest.raises(Refusal, match="a share a size"):
        capacity([1, 2], [0.5], 0.5)
