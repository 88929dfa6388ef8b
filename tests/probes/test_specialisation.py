"""Which expert serves which group, against scikit-learn and planted routings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gatescope.errors import Refusal
from gatescope.probes import Routing, specialisation


@pytest.fixture
def record(measure, scores_of):
    logits = torch.randn(1, 300, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return measure(Routing(keep=True), routers=[scores_of(logits, k=1)])


def test_information_is_that_of_scikit_learn(record, require):
    require("sklearn")
    from sklearn.metrics import mutual_info_score

    expert = record.token_expert.values[0, :, 0]
    group = (expert * 7 + np.random.default_rng(0).integers(3, size=300)) % 4
    found = specialisation(record, group)
    assert found.group_information.item() == pytest.approx(mutual_info_score(group, expert))
    assert found.attrs["most_information"] == pytest.approx(np.log(4))
    np.testing.assert_allclose(found.group_expert.sum("expert"), 1)


def test_ends_are_0_and_log_of_the_groups(record):
    expert = record.token_expert.values[0, :, 0]
    assert specialisation(record, expert).group_information.item() == pytest.approx(
        -sum(share * np.log(share) for share in np.bincount(expert) / 300)
    )
    assert specialisation(record, np.zeros(300, dtype=int)).group_information.item() == pytest.approx(0)


def test_a_visit_of_weight_0_does_not_count_and_an_empty_group_is_nan(measure, scores_of):
    logits = torch.randn(1, 50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores = scores_of(logits, k=2)
    first = torch.tensor([1.0, 0.0], dtype=torch.float64)
    probe = Routing(keep=True)
    found = specialisation(
        measure(probe, routers=[replace(scores, weight=scores.weight * first)]), np.zeros(50, dtype=int), ["a", "b"]
    )
    counts = np.bincount(scores.index[0, :, 0], minlength=4) / 50
    np.testing.assert_allclose(found.group_expert.sel(layer=0, group="a"), counts)
    assert found.group_expert.sel(group="b").isnull().all()
    nobody = measure(Routing(keep=True), routers=[scores]).assign(token_weight=lambda ds: ds.token_weight * 0)
    assert np.isnan(specialisation(nobody, np.zeros(50, dtype=int)).group_information.item())


def test_refusals(record):
    with pytest.raises(Refusal, match=r"one for each of 300 tokens, got int64 of shape \(299,\)"):
        specialisation(record, np.zeros(299, dtype=int))
    with pytest.raises(Refusal, match="Routing\\(keep=True\\)"):
        specialisation(record.drop_vars("token_expert"), np.zeros(300, dtype=int))
