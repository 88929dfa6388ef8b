"""Intervals, p values and corrections against independent counts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from gatescope.errors import Refusal
from gatescope.studies.statistics import bootstrap_interval, holm, outliers, paired, verdict
from scipy import stats


@pytest.mark.parametrize("n", [2, 3, 5, 6])
def test_the_exact_interval_is_that_of_all_resamples_one_by_one(n):
    values = np.random.default_rng(n).normal(size=n)
    means = [np.mean(chosen) for chosen in itertools.product(values, repeat=n)]
    low, high = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    np.testing.assert_allclose(bootstrap_interval(values), (low, high), rtol=1e-12)


def test_many_values_are_drawn_and_come_near_the_normal_interval():
    values = np.random.default_rng(0).normal(size=400)
    half = 1.96 * values.std() / 20
    np.testing.assert_allclose(bootstrap_interval(values), (values.mean() - half, values.mean() + half), atol=0.01)
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_the_coverage_that_the_docstring_states():
    rng = np.random.default_rng(0)
    inside = [low <= 0 <= high for low, high in (bootstrap_interval(rng.normal(size=5)) for _ in range(600))]
    assert 0.79 < np.mean(inside) < 0.87


def test_one_value_has_no_interval():
    with pytest.raises(Refusal, match="at least 2"):
        bootstrap_interval([1.0])
    one = paired([1.5])
    assert (one.n, one.mean) == (1, 1.5)
    assert np.isnan([one.low, one.high, one.p]).all()


def test_p_is_that_of_the_paired_t_test():
    ours, theirs = np.random.default_rng(1).normal(size=(2, 5))
    assert paired(ours - theirs).p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert paired([2.0, 2.0, 2.0]).p == 0.0
    assert paired([0.0, 0.0, 0.0]).p == 1.0


def test_holm_against_its_definition():
    p = [0.01, 0.04, 0.03, 0.005, float("nan"), 0.9]
    ordered = sorted(x for x in p if x == x)
    wanted = {x: max(min(1, (5 - j) * ordered[j]) for j in range(i + 1)) for i, x in enumerate(ordered)}
    got = holm(p)
    assert [g for g, x in zip(got, p, strict=True) if x == x] == pytest.approx([wanted[x] for x in p if x == x])
    assert np.isnan(got[4])
    assert holm([]) == []


def test_holm_holds_the_level_over_many_true_nulls():
    rng = np.random.default_rng(0)
    wrong = [min(holm([paired(row).p for row in rng.normal(size=(20, 5))])) < 0.05 for _ in range(120)]
    assert np.mean(wrong) < 0.12


@pytest.mark.parametrize(
    ("n", "mean", "p", "said"),
    [
        (2, -1.0, 0.001, "no verdict: 2 of 3 seeds"),
        (3, -1.0, 0.001, "less"),
        (5, 1.0, 0.049, "greater"),
        (5, 1.0, 0.05, "not told apart"),
    ],
)
def test_verdicts(n, mean, p, said):
    assert verdict(n, mean, p) == said


def test_an_outlier_is_far_from_its_own_group():
    rng = np.random.default_rng(0)
    values = np.r_[rng.normal(0, 0.1, 10), rng.normal(50, 0.1, 10), np.nan]
    groups = ["a"] * 10 + ["b"] * 11
    assert not outliers(values, groups).any()
    values[3] = 2.0
    assert np.flatnonzero(outliers(values, groups)).tolist() == [3]
    assert not outliers(np.full(4, 2.0), "aabb").any()
