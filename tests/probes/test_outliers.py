"""int8 errors against rounding one number after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gatescope.errors import NonFiniteError, Refusal
from gatescope.probes import OutlierSensitivity


def normal(B=2, T=7, D=5, seed=0):
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(x, scaling):
    """||x - Q(x)||^2 / ||x||^2 of one sequence, a list of lists."""
    T, D = len(x), len(x[0])
    lost = total = 0.0
    for t in range(T):
        for d in range(D):
            group = {
                "tensor": [abs(value) for row in x for value in row],
                "token": [abs(value) for value in x[t]],
                "channel": [abs(row[d]) for row in x],
            }[scaling]
            step = max(group) / 127
            rounded = step * round(x[t][d] / step) if step else 0.0
            lost += (x[t][d] - rounded) ** 2
            total += x[t][d] ** 2
    return lost / total


@pytest.mark.parametrize("scaling", ["tensor", "token", "channel"])
def test_errors_are_those_of_rounding_by_hand(measure, scaling):
    hidden, mlp = normal(), torch.relu(normal(D=8, seed=1))
    mlp[:, :, 3], mlp[:, 2] = 0, 0
    record = measure(OutlierSensitivity(("mlp", "resid")), hidden=[hidden], mlps=[mlp])
    for site, x in (("resid", hidden), ("mlp", mlp)):
        want = np.mean([by_hand(sequence.tolist(), scaling) for sequence in x])
        assert record.int8_error.sel(layer=0, site=site, scaling=scaling) == pytest.approx(want)


def test_an_outlier_spoils_what_shares_its_scale(measure):
    x = normal(T=64, D=32)
    plain = measure(OutlierSensitivity(), hidden=[x]).int8_error.sel(layer=0, site="resid")
    x[:, 3, 7] = 3000
    noise = (x[:, :3] ** 2).sum() / (x**2).sum()
    spoiled = measure(OutlierSensitivity(), hidden=[x]).int8_error.sel(layer=0, site="resid")
    # A step of 3000 / 127 rounds all others away: what is lost is all that is not the outlier.
    others = (x**2).sum() - 2 * 3000**2
    assert spoiled.sel(scaling="tensor") == pytest.approx(float(others / (x**2).sum()), rel=1e-6)
    for scaling in ("token", "channel"):
        assert spoiled.sel(scaling=scaling) < 0.1 * spoiled.sel(scaling="tensor")
    assert noise > 0
    assert (plain < 1e-3).all()


def test_the_baseline_of_normal_values(measure):
    found = measure(OutlierSensitivity(), hidden=[normal(B=1, T=400, D=250).float()]).int8_error
    assert found.sel(scaling="tensor").item() == pytest.approx(1.2e-4, rel=0.3)


def test_what_is_on_the_grid_loses_nothing(measure):
    grid = torch.arange(-127, 128).double().view(1, 1, -1)
    assert measure(OutlierSensitivity(), hidden=[grid]).int8_error.max() == 0
    assert measure(OutlierSensitivity(), hidden=[torch.zeros(1, 2, 4)]).int8_error.max() == 0


@pytest.mark.parametrize("sites", [(), ("embed",), ("resid", "logits")])
def test_other_sites_are_refused(sites):
    with pytest.raises(Refusal, match=r"OutlierSensitivity: wanted sites among \('resid', 'mlp'\)"):
        OutlierSensitivity(sites)


def test_nan_is_named_with_its_layer(measure):
    bad = normal()
    bad[0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"OutlierSensitivity: .* in layer 1"):
        measure(OutlierSensitivity(), hidden=[normal(), bad])
