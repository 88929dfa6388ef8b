"""Features by hand, and a regression that must not see what it predicts."""

from __future__ import annotations

import numpy as np
import pytest
from gatescope.emergence import FEATURES, architecture_features, predict_left_out, r_squared
from gatescope.errors import Refusal


def test_features_are_those_of_the_paper() -> None:
    found = architecture_features(2, n_layers=5, d_model=64, n_heads=4, hidden=256)
    by_hand = [0.5, 0.25, 0.125, 0.5**0.5, 1 / 16, 4, 12.8, 0.8, np.log(64), 10]
    assert list(found) == list(FEATURES)
    np.testing.assert_allclose(list(found.values()), by_hand)
    assert architecture_features(0, n_layers=1, d_model=8, n_heads=1, hidden=8)["position"] == 0
    with pytest.raises(Refusal, match="a layer of 0 to 4"):
        architecture_features(5, n_layers=5, d_model=64, n_heads=4, hidden=256)


def test_a_linear_truth_is_found_and_own_groups_are_never_looked_at() -> None:
    rng = np.random.default_rng(0)
    x, groups = rng.standard_normal((60, 3)), np.repeat(np.arange(6), 10)
    y = x @ np.array([2.0, -1.0, 0.0]) + 5
    predicted = predict_left_out(x, y, groups, penalty=1e-8)
    np.testing.assert_allclose(predicted, y, atol=1e-6)
    changed = y.copy()
    changed[groups == 2] += 100
    again = predict_left_out(x, changed, groups, penalty=1e-8)
    np.testing.assert_allclose(again[groups == 2], y[groups == 2], atol=1e-6)


def test_what_only_the_group_decides_is_foretold_at_random_and_not_for_a_new_group() -> None:
    """The trap of a random split: layers of one model on both sides."""
    rng = np.random.default_rng(1)
    own, groups = rng.standard_normal((8, 8)), np.repeat(np.arange(8), 10)
    x, y = own[groups], rng.standard_normal(8)[groups] + 0.01 * rng.standard_normal(80)
    at_random = predict_left_out(x, y, rng.permutation(80) % 5, penalty=1e-3)
    assert r_squared(y, at_random) > 0.9
    assert r_squared(y, predict_left_out(x, y, groups, penalty=1e-3)) < 0.2


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(Refusal, match="two groups or more"):
        predict_left_out(np.zeros((4, 2)), np.zeros(4), np.zeros(4))
    with pytest.raises(Refusal, match="targets that differ"):
        r_squared(np.ones(4), np.zeros(4))
