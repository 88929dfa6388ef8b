"""Gate statistics against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gatescope.errors import NonFiniteError, Refusal
from gatescope.probes import Gates
from gatescope.taps import GateScores


def scores(B=2, N=3, T=10, W=4, seed=0, position="sdpa", combine="multiply"):
    draw = torch.Generator().manual_seed(seed)
    return GateScores(torch.rand(B, N, T, W, generator=draw, dtype=torch.float64), position, combine)


@pytest.mark.parametrize(("N", "W"), [(3, 4), (3, 1), (1, 5)], ids=["element", "head", "shared"])
def test_every_number_follows_its_definition(measure, N, W):
    gate = scores(N=N, W=W)
    s = gate.scores
    here = measure(Gates(bins=10), gates=[gate]).sel(layer=0)
    np.testing.assert_allclose(here.gate_mean, s.mean((0, 2, 3)))
    np.testing.assert_allclose(here.gate_closed, (s < 0.1).double().mean((0, 2, 3)))
    want = [torch.histc(s[:, n], 10, 0, 1) / s[:, n].numel() for n in range(N)]
    np.testing.assert_allclose(here.gate_histogram, torch.stack(want))
    np.testing.assert_allclose(here.gate_token_variance, s.var((0, 2), correction=0).mean(), rtol=1e-9)
    np.testing.assert_allclose(here.gate_head_variance, s.mean((0, 2, 3)).var(correction=0), atol=1e-12)
    assert here.gate_live.all()


def test_passes_add_up(measure):
    whole = scores(B=4)
    parts = [GateScores(whole.scores[part], "sdpa") for part in (slice(0, 1), slice(1, 4))]
    together, apart = measure(Gates(), gates=[whole]), measure(Gates(), *({"gates": [part]} for part in parts))
    for name in together:
        np.testing.assert_allclose(apart[name], together[name], atol=1e-12)


@pytest.mark.parametrize(
    ("value", "combine", "live"),
    [
        (0.0, "multiply", False),
        (1.0, "multiply", False),
        (0.5, "multiply", True),
        (0.0, "add", False),
        (1.0, "add", True),
    ],
)
def test_a_saturated_gate_is_dead(measure, value, combine, live):
    gate = GateScores(torch.full((1, 2, 5, 1), value), "sdpa", combine)
    assert measure(Gates(), gates=[gate]).gate_live.values.all() == live


def test_one_open_score_keeps_a_gate_alive(measure):
    s = torch.zeros(1, 2, 5, 1)
    s[0, 1, 3] = 0.5
    assert measure(Gates(), gates=[GateScores(s, "sdpa")]).gate_live.values.tolist() == [[False, True]]


def test_a_gate_without_input_does_not_vary_over_tokens(measure):
    s = torch.rand(1, 4, 1, 3, generator=torch.Generator().manual_seed(0)).expand(2, -1, 9, -1)
    here = measure(Gates(), gates=[GateScores(s, "sdpa")])
    assert here.gate_token_variance.item() == pytest.approx(0, abs=1e-12)
    assert here.gate_head_variance > 1e-4


def test_scores_beyond_the_span_fall_into_the_end_bins(measure):
    s = torch.tensor([-3.0, 0.05, 0.95, 7.0]).view(1, 1, 4, 1)
    histogram = measure(Gates(bins=10), gates=[GateScores(s, "sdpa")]).gate_histogram.values.ravel()
    assert histogram.tolist() == [0.5, *[0] * 8, 0.5]


def test_the_record_says_which_gate(measure):
    attrs = measure(Gates(), gates=[scores(position="value")]).gate_mean.attrs
    assert (attrs["position"], attrs["combine"]) == ("value", "multiply")


def test_gates_at_two_positions_want_a_choice(measure):
    gates = [scores(position="value"), scores(position="sdpa", seed=1)]
    with pytest.raises(Refusal, match=r"Gates: wanted one kind of gate, .*; choose one: Gates\('sdpa'\)"):
        measure(Gates(), gates=gates)
    record = measure(Gates("sdpa"), gates=gates)
    assert record.layer.values.tolist() == [1]


def test_no_gate_is_refused(measure, call_of):
    with pytest.raises(Refusal, match=r"Gates: wanted at least one forward pass that shows its sites, got none"):
        measure(Gates(), calls=[call_of()])


def test_nan_is_named_with_its_layer(measure):
    bad = scores()
    bad.scores[0, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"Gates: .* in layer 0"):
        measure(Gates(), gates=[bad])


@pytest.mark.parametrize("options", [{"bins": 0}, {"span": (1.0, 0.0)}])
def test_a_histogram_needs_bins_and_a_span(options):
    with pytest.raises(Refusal, match="bins >= 1 over a span that grows"):
        Gates(**options)
