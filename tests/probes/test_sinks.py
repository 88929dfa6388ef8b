"""Sinks against a materialised matrix."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gatescope.errors import NonFiniteError, Refusal
from gatescope.interventions import MaskKeys
from gatescope.probes import Sinks
from gatescope.taps import attached


def rows_from(call, see, first):
    """Rows [B T] at or after position ``first`` that see something."""
    T, S = see.shape[1:]
    seen = see.any(-1) | (call.sink is not None)
    return seen & (torch.arange(S - T, S) >= first)


@pytest.mark.parametrize("first_query", [0, 1, 4])
def test_first_attention_is_the_mean_of_the_first_column(call, measure, oracle, first_query):
    A, see = oracle(call)
    rows = rows_from(call, see, first_query)
    want = A[..., 0].movedim(1, -1)[rows].mean(0)
    got = measure(Sinks(first_query=first_query), calls=[call]).first_attention
    np.testing.assert_allclose(got.values[0], want, atol=1e-10)
    n = see.sum(-1) + (call.sink is not None)
    uniform = (see[..., 0] / n)[rows].mean()
    assert got.attrs["baseline_value"] == pytest.approx(float(uniform))


@pytest.mark.parametrize("key", [0, 3, 9])
def test_sink_score_and_share_follow_gu(call, measure, oracle, key):
    A, see = oracle(call)
    rows = rows_from(call, see, key)
    alpha = torch.stack([A[b, :, rows[b], key].mean(-1) for b in range(len(A))])
    record = measure(Sinks(chosen=(key,), epsilon=0.1), calls=[call]).sel(layer=0, chosen=key)
    np.testing.assert_allclose(record.sink_score, alpha.mean(0), atol=1e-10)
    np.testing.assert_allclose(record.sink_share, (alpha > 0.1).double().mean(0), atol=1e-10)


def test_key_mass_is_the_column_mean_over_rows_that_see_the_key(call, measure, oracle):
    A, see = oracle(call)
    readers = see.sum(1)
    per_sample = A.sum(2) / readers.clamp(min=1)[:, None]
    want = per_sample.where(readers[:, None] > 0, torch.nan).nanmean(0)
    got = measure(Sinks(), calls=[call]).key_mass.values[0]
    np.testing.assert_allclose(got, want, atol=1e-10)


def test_sink_mass_is_what_real_keys_leave(call, measure, oracle):
    A, see = oracle(call)
    record = measure(Sinks(), calls=[call])
    if call.sink is None:
        assert "sink_mass" not in record
        return
    np.testing.assert_allclose(record.sink_mass.values[0], (1 - A.sum(-1)).mean((0, 2)), atol=1e-10)
    assert record.sink_mass.attrs["baseline_value"] == pytest.approx(float((1 / (see.sum(-1) + 1.0)).mean()))


@pytest.mark.parametrize("length", [2, 12, 64])
def test_repeated_tokens_give_the_uniform_baseline(measure, call_of, length):
    call = call_of(T=length)
    call = replace(call, k=call.k[:, :, :1].expand(-1, -1, length, -1))
    got = measure(Sinks(), calls=[call]).first_attention
    np.testing.assert_allclose(got, Sinks.uniform_baseline(length), atol=1e-10)
    assert got.attrs["baseline_value"] == pytest.approx(Sinks.uniform_baseline(length))


@pytest.mark.parametrize(("length", "value"), [(64, 0.074), (512, 0.0133), (4096, 0.0022)])
def test_uniform_baseline_with_row_0_is_the_harmonic_number_over_length(length, value):
    assert Sinks.uniform_baseline(length, first_query=0) == pytest.approx(value, rel=0.02)


def test_planted_sink_takes_everything(measure, call_of):
    call = call_of(dtype=torch.float32)
    call.q[..., 0], call.k[..., 0] = 60 * 8**0.5, 0.0
    call.k[:, :, 0, 0] = 1.0
    record = measure(Sinks(), calls=[call])
    assert float(record.first_attention.min()) > 1 - 1e-6
    assert float(record.sink_share.min()) == 1
    assert float(record.key_mass.sel(token=slice(1, None)).max()) < 1e-6


def test_layers_are_told_apart(measure, call_of):
    calls = [call_of(seed=seed) for seed in (1, 2)]
    both = measure(Sinks(), calls=calls)
    for layer, call in enumerate(calls):
        alone = measure(Sinks(), calls=[call])
        np.testing.assert_allclose(both.first_attention.sel(layer=layer), alone.first_attention[0])


def test_shorter_and_longer_sequences_share_a_key_mass(measure, call_of):
    short, long = call_of(T=5, seed=1), call_of(T=9, seed=2)
    both = measure(Sinks(), {"calls": [short]}, {"calls": [long]}).key_mass[0]
    alone = [measure(Sinks(), calls=[call]).key_mass[0] for call in (short, long)]
    np.testing.assert_allclose(both[:, :5], (alone[0] + alone[1][:, :5]) / 2)
    np.testing.assert_allclose(both[:, 5:], alone[1][:, 5:])


def test_one_token_has_no_row_after_the_first(measure, call_of):
    with pytest.raises(Refusal, match=r"Sinks: wanted rows at or after first_query=1, got none in layer 0; give the"):
        measure(Sinks(), calls=[call_of(T=1)])
    assert measure(Sinks(first_query=0), calls=[call_of(T=1)]).first_attention.values == pytest.approx(1)


def test_a_chosen_key_beyond_the_sequence_is_refused(measure, call_of):
    with pytest.raises(Refusal, match=r"Sinks: wanted keys below 12, .* got \[30\]; give the model a longer input"):
        measure(Sinks(chosen=(30,)), calls=[call_of()])


def test_padding_on_the_left_is_refused(measure, call_of):
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, 0] = False
    with pytest.raises(
        Refusal, match=r"text at the chosen keys \(0,\), got padding in some sequence; pad on the right"
    ):
        measure(Sinks(), calls=[call_of(key_mask=mask)], key_mask=mask)


@pytest.mark.parametrize("options", [{"chosen": ()}, {"chosen": (-1,)}, {"first_query": -1}])
def test_positions_count_from_zero(options):
    with pytest.raises(Refusal, match="count positions from 0"):
        Sinks(**options)


def test_a_hidden_key_is_not_padding(player, call_of, measure):
    """An intervention that hides key 5 hides no row; one that hides key 0 leaves row 0 with nothing to see."""
    probe = Sinks(first_query=0)
    with attached(player, MaskKeys([5]), probe):
        player(calls=[call_of()])
    record = probe.finalize()
    assert np.isnan(record.key_mass.sel(token=5)).all()
    assert probe.sums.read("first_rows") == 24
    probe = Sinks(first_query=0)
    with attached(player, probe, MaskKeys([0])):
        player(calls=[call_of()])
    assert float(probe.finalize().first_attention.max()) == 0
    assert probe.sums.read("first_rows") == 22


@pytest.mark.parametrize("where", ["q", "k"])
def test_nan_is_named_with_its_layer(measure, call_of, where):
    bad = call_of(seed=1)
    getattr(bad, where)[0, 0, 3, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"Sinks: wanted finite numbers for \w+, got NaN or infinity in layer 1; "):
        measure(Sinks(), calls=[call_of(), bad])
