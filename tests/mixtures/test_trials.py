"""Trials: the same data for every fit of a seed, and medians that leave out what has no number."""

from __future__ import annotations

import numpy as np
import torch
from gatescope.mixtures import Fit, GaussianMoE, RouterSpec, voronoi_loss
from gatescope.mixtures.cases import SPARSE, Case
from gatescope.mixtures.trials import QUANTITIES, errors, fit_case
from gatescope.mixtures.voronoi import cell_sizes

CROWDED, SPREAD = (0, 1, 1, 1, 1), (0, 1, 1, 2, 2)


def side_by_side(*orders: tuple[int, ...]) -> GaussianMoE:
    """Copies of the experts of SPARSE, moved a little, one mixture for each order."""
    parts = [SPARSE.experts(order, RouterSpec(k=3)).map(lambda tensor: tensor + 0.01) for order in orders]
    tensors = [torch.cat(held) for held in zip(*(part.tensors() for part in parts), strict=True)]
    return GaussianMoE(RouterSpec(k=3), *tensors)


def ended(mixture: GaussianMoE, converged: tuple[bool, ...]) -> Fit:
    none = torch.zeros(len(converged))
    return Fit(mixture, none, none.long(), torch.tensor(converged), none[None])


def test_a_cell_too_full_for_the_loss_is_left_out_of_its_median():
    case = Case(SPARSE, SPREAD, RouterSpec(k=3))
    both = side_by_side(CROWDED, SPREAD)
    assert cell_sizes(both, SPARSE).tolist() == [[1, 4, 0], [1, 2, 2]]
    found = errors(case, ended(both, (True, False)))
    assert float(found["voronoi_loss"]) == float(voronoi_loss(side_by_side(SPREAD), SPARSE))
    assert float(found["capped"]) == 0.5
    alone = errors(case, ended(side_by_side(CROWDED), (True,)))
    assert np.isnan(alone["voronoi_loss"])
    assert np.isfinite(alone["error_shared"]).all()


def test_every_error_has_its_quantity():
    case = Case(SPARSE, (0, 1, 2), RouterSpec(k=2))
    found = errors(case, fit_case(case, 40, 0, 2)["EM"])
    assert set(found) == {quantity.name for quantity in QUANTITIES}
    assert {name: values.ndim for name, values in found.items()} == {q.name: len(q.dims) for q in QUANTITIES}
    assert np.isnan(found["error_temperature"])


def test_fits_of_one_truth_and_seed_see_the_same_data(monkeypatch):
    from gatescope.mixtures import trials

    seen = []
    monkeypatch.setattr(trials, "polish", lambda fit, x, y: seen.append((x, y)) or fit)
    for order, k in (((0, 1, 2), 2), ((0, 1, 1, 2), 3)):
        fit_case(Case(SPARSE, order, RouterSpec(k=k)), 30, 5, 2)
    (x, y), (again, other) = seen
    assert torch.equal(x, again)
    assert torch.equal(y, other)
