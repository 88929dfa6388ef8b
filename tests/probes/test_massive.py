"""Massive activations against their definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gatescope.errors import NonFiniteError, Refusal
from gatescope.probes import Massive
from scipy.stats import kurtosis


def normal(B=2, T=11, D=16, seed=0):
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(seed))


def test_every_layer_follows_its_definition(measure):
    hidden = [normal(seed=1), 5 * normal(seed=2)]
    record = measure(Massive(), hidden=hidden)
    for layer, h in enumerate(hidden):
        a = h.abs().flatten(1).double()
        here = record.sel(layer=layer)
        assert here.magnitude_max == pytest.approx(a.amax(1).mean().item())
        assert here.magnitude_median == pytest.approx(a.median(1).values.mean().item())
        assert here.massive_ratio == pytest.approx((a.amax(1) / a.median(1).values).mean().item())
        assert here.kurtosis == pytest.approx(kurtosis(h.flatten(1).double(), axis=1, fisher=False).mean())
        assert here.massive_count == 0
        np.testing.assert_allclose(here.top_value, a.flatten().sort(descending=True).values[:5])
    assert record.m_act == pytest.approx(float(record.magnitude_max.mean()))


def test_a_planted_channel_is_found_and_counted(measure):
    h = 0.1 * normal(B=3)
    h[1, 7, 4], h[2, 0, 9] = -5000.0, 3000.0
    here = measure(Massive(ranks=3), hidden=[h]).sel(layer=0)
    assert here.massive_count == pytest.approx(2 / 3)
    assert here.top_value.values[:2].tolist() == [5000, 3000]
    assert here.top_token.values[:2].tolist() == [7, 0]
    assert here.top_dim.values[:2].tolist() == [4, 9]
    assert here.massive_ratio > 1000
    assert here.kurtosis > 100


@pytest.mark.parametrize(("spike", "scale", "count"), [(99.0, 0.01, 0), (101.0, 0.01, 1), (5000.0, 100.0, 0)])
def test_massive_needs_both_the_floor_and_the_ratio(measure, spike, scale, count):
    h = scale * normal(B=1)
    h[0, 3, 3] = spike
    assert measure(Massive(), hidden=[h]).massive_count == count


def test_the_ranking_runs_over_all_passes(measure):
    first, second = normal(B=1, T=4), normal(B=1, T=9, seed=1)
    first[0, 2, 1], second[0, 8, 6] = 50.0, 70.0
    top = measure(Massive(ranks=2), {"hidden": [first]}, {"hidden": [second]}).sel(layer=0)
    assert top.top_value.values.tolist() == [70, 50]
    assert top.top_token.values.tolist() == [8, 2]


def test_fewer_values_than_ranks(measure):
    assert measure(Massive(ranks=9), hidden=[normal(B=1, T=1, D=4)]).sizes["rank"] == 4


def test_keep_holds_the_surface_of_one_sequence(measure):
    h = normal(B=1)
    record = measure(Massive(keep=True), hidden=[h, 2 * h])
    np.testing.assert_allclose(record.magnitude, torch.stack([h[0].abs(), 2 * h[0].abs()]), rtol=1e-6)
    assert "magnitude" not in measure(Massive(), hidden=[h])


@pytest.mark.parametrize(("passes", "got"), [([2], "2 sequences"), ([1, 1], "a second pass")])
def test_keep_refuses_more_than_one_sequence(measure, passes, got):
    with pytest.raises(Refusal, match=rf"Massive\(keep=True\): wanted one sequence and one forward pass, got {got};"):
        measure(Massive(keep=True), *({"hidden": [normal(B=B)]} for B in passes))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_non_finite_is_named_with_its_layer(measure, bad):
    h = normal()
    h[0, 0, 0] = bad
    with pytest.raises(NonFiniteError, match=r"Massive: wanted finite numbers for \w+, got NaN or infinity in layer 1"):
        measure(Massive(), hidden=[normal(), h])


def test_half_precision_is_measured_in_full(measure):
    h = normal().to(torch.bfloat16)
    h[0, 0, 0] = 20_000.0
    got, want = (measure(Massive(), hidden=[x]) for x in (h, h.double()))
    np.testing.assert_allclose(got.kurtosis, want.kurtosis)
