"""The study of rates: fits start where its comment says, a point is a trial of lesson 09, the impossible is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gatescope.errors import Refusal
from gatescope.mixtures import RouterSpec, hellinger
from gatescope.mixtures.cases import SPARSE, Case
from gatescope.mixtures.trials import STAGES, errors, fit_case
from gatescope.studies import expand, load
from gatescope.studies.points.gaussian_rates import STARTS, RateRun, measure

INPUTS = torch.linspace(-1.9, 1.9, 15, dtype=torch.float64)[:, None]


def test_a_point_is_a_trial_of_the_lesson():
    case = Case(SPARSE, (0, 1, 1, 2), RouterSpec(k=3))
    wanted = errors(case, fit_case(case, 60, 1, 2)[STAGES[1]])
    record = measure(RateRun(experts=4, k=3, samples=60, replicates=2, seed=1))
    for name in ("hellinger", "voronoi_loss", "error_alone", "error_shared", "capped"):
        np.testing.assert_array_equal(record[name], wanted[name])
    assert record.parameter.values.tolist() == ["gate slope", "slope", "intercept", "scale"]


def test_an_exact_fit_has_no_shared_cell():
    assert "error_shared" not in measure(RateRun(samples=60, replicates=2))


@pytest.mark.parametrize("experts", STARTS)
def test_the_truth_is_among_the_fits_where_k_is_one_below_their_number(experts):
    copies = SPARSE.experts(STARTS[experts], RouterSpec(k=experts - 1))
    middle = torch.tensor(STARTS[experts]) == 1
    # Copies share the weight of the one they stand for.
    copies.gate_bias[0, middle] -= np.log(int(middle.sum()))
    assert float(hellinger(copies, SPARSE, INPUTS)[0]) == pytest.approx(0, abs=1e-4)
    dense = SPARSE.experts(STARTS[experts], RouterSpec(k=experts))
    dense.gate_bias[0, middle] -= np.log(int(middle.sum()))
    assert float(hellinger(dense, SPARSE, INPUTS)[0]) > 0.05


def test_the_grid_has_every_k_that_its_fits_can_have():
    grid = expand(load("gaussian-rates"))
    found = {(point.config["experts"], point.config["k"]) for point in grid.points}
    assert found == {(experts, k) for experts in (3, 4, 5) for k in (2, 3, 4) if k <= experts}
    assert len({point.config["samples"] for point in grid.points}) >= 4


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"experts": 2}, r"experts among \(3, 4, 5\)"),
        ({"k": 4}, "k=4 of 3"),
        ({"k": 0}, "k from 1"),
        ({"samples": 2}, "samples or more"),
        ({"replicates": 0}, "one data set or more"),
    ],
)
def test_impossible_fits_are_refused(fields, said):
    with pytest.raises(Refusal, match=said):
        RateRun(**fields)
