"""Cells, errors and the Voronoi loss against scipy and sums by hand; rates against planted powers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gatescope.errors import NonFiniteError, Refusal
from gatescope.mixtures import GaussianMoE, RouterSpec, cell_errors, voronoi_cells, voronoi_loss
from gatescope.rates import rate
from scipy.spatial import KDTree

from .conftest import mixture


def moved(own: GaussianMoE, expert: int, *, intercept: float = 0.0, slope: float = 0.0) -> GaussianMoE:
    """A copy with one expert moved."""
    tensors = [tensor.clone() for tensor in own.tensors()]
    tensors[3][:, expert] += slope
    tensors[4][:, expert] += intercept
    return GaussianMoE(own.router, *tensors)


def theta(own: GaussianMoE) -> np.ndarray:
    parts = [own.gate_slope, own.slope, own.intercept[..., None], own.log_scale.exp()[..., None]]
    return torch.cat(parts, -1)[0].numpy()


def test_cells_are_those_of_a_nearest_neighbour_search():
    truth = mixture(RouterSpec(), inputs=2)
    for seed in range(5):
        fitted = mixture(RouterSpec(), inputs=2, seed=seed).experts([0, 1, 1, 2])
        expected = KDTree(theta(truth)).query(theta(fitted))[1]
        assert voronoi_cells(fitted, truth)[0].tolist() == expected.tolist()


def test_the_loss_vanishes_at_the_truth_and_at_a_split_of_it():
    truth = mixture(RouterSpec())
    assert float(voronoi_loss(truth, truth)) == 0
    split = truth.experts([0, 0, 1, 2])
    bias = split.gate_bias - torch.tensor([np.log(2), np.log(2), 0, 0])
    split = GaussianMoE(split.router, split.gate_slope, bias, *split.tensors()[2:])
    assert float(voronoi_loss(split, truth)) == pytest.approx(0, abs=1e-12)


def test_the_loss_raises_errors_of_shared_cells_to_their_exponent():
    truth = mixture(RouterSpec())
    mass = float(truth.gate_bias[0, 0].exp())
    alone = voronoi_loss(moved(truth, 0, intercept=0.1), truth)
    assert float(alone) == pytest.approx(0.1 * mass)
    split = truth.experts([0, 0, 1, 2])
    shared = voronoi_loss(moved(split, 0, intercept=0.1, slope=0.2), truth) - voronoi_loss(split, truth)
    assert float(shared) == pytest.approx((0.1**4 + 0.2**2) * mass)


def test_errors_are_told_apart_by_cell_and_weighted():
    truth = mixture(RouterSpec())
    fitted = moved(truth.experts([0, 0, 1, 2]), 0, intercept=0.3)
    shared, has = cell_errors(fitted, truth, shared=True)
    alone, _ = cell_errors(fitted, truth, shared=False)
    assert has.all()
    assert shared[0].tolist() == pytest.approx([0, 0, 0.3 / np.sqrt(2), 0])
    assert alone[0].tolist() == pytest.approx([0] * 4)
    nothing, has = cell_errors(truth, truth, shared=True)
    assert nothing.isnan().all()
    assert not has.any()


def test_a_cell_of_four_has_no_known_exponent():
    truth = mixture(RouterSpec())
    with pytest.raises(Refusal, match="at most 3 experts in a cell"):
        voronoi_loss(truth.experts([0, 0, 0, 0, 1, 2]), truth)


@pytest.mark.parametrize("power", [-0.5, -0.25, 0.0])
def test_a_rate_is_the_planted_power(power):
    n = np.array([250, 800, 2500, 8000])
    assert rate(n, 3.0 * n**power) == pytest.approx(power)


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(Refusal, match="two or more sizes"):
        rate([100], [0.1])
    with pytest.raises(NonFiniteError, match="errors above 0"):
        rate([100, 200], [0.1, 0.0])
