"""Entropy against a materialised matrix."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gatescope.errors import NonFiniteError, Refusal
from gatescope.probes import Entropy
from gatescope_kernels import Visibility


def test_entropy_is_the_mean_over_rows_with_a_choice(call, measure, oracle):
    A, see = oracle(call)
    if call.sink is not None:
        A = torch.cat([A, 1 - A.sum(-1, keepdim=True)], -1)
    H = -torch.xlogy(A, A).sum(-1).movedim(1, -1)
    n = see.sum(-1) + (call.sink is not None)
    record = measure(Entropy(), calls=[call])
    np.testing.assert_allclose(record.entropy[0], H[n > 1].mean(0), atol=1e-9)
    np.testing.assert_allclose(record.entropy_normalised[0], (H / n[..., None].log())[n > 1].mean(0), atol=1e-9)
    assert record.entropy.attrs["baseline_value"] == pytest.approx(float(n[n > 1].log().mean()), rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"visibility": Visibility(window=3)}, {"sink": 0.0}])
def test_equal_logits_have_normalised_entropy_one(measure, call_of, options):
    call = call_of(**options)
    record = measure(Entropy(), calls=[replace(call, q=torch.zeros_like(call.q))])
    np.testing.assert_allclose(record.entropy_normalised, 1, atol=1e-9)
    np.testing.assert_allclose(record.entropy, record.entropy.attrs["baseline_value"], atol=1e-6)


def test_batches_of_unequal_size_weigh_by_their_rows(measure, call_of):
    one, three = call_of(B=1, T=5, seed=1), call_of(B=3, T=12, seed=2)
    both = measure(Entropy(), {"calls": [one]}, {"calls": [three]}).entropy
    alone = [measure(Entropy(), calls=[call]).entropy for call in (one, three)]
    np.testing.assert_allclose(both, (alone[0] * 4 + alone[1] * 33) / 37)


@pytest.mark.parametrize("options", [{"T": 1}, {"visibility": Visibility(window=1)}])
def test_no_row_with_a_choice_is_refused(measure, call_of, options):
    with pytest.raises(Refusal, match=r"Entropy: wanted rows that see more than one key, got none in layer 0"):
        measure(Entropy(), calls=[call_of(**options)])


def test_one_token_and_a_sink_are_a_choice(measure, call_of):
    record = measure(Entropy(), calls=[call_of(T=1, sink=0.0)])
    assert ((record.entropy_normalised > 0) & (record.entropy_normalised < 1)).all()


def test_nan_is_named_with_its_layer(measure, call_of):
    bad = call_of()
    bad.q[1, 2, 5] = torch.nan
    with pytest.raises(NonFiniteError, match=r"Entropy: wanted finite numbers for \w+, got NaN or infinity in layer 0"):
        measure(Entropy(), calls=[bad])
