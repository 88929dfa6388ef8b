"""Value drain against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gatescope.errors import NonFiniteError, Refusal
from gatescope.probes import ValueDrain


def test_drain_is_a_ratio_of_norms(call, measure):
    norm = call.v.norm(dim=-1)
    if call.key_mask is not None:
        norm = norm.where(call.key_mask[:, None], torch.nan)
    want = (norm[..., 0] / norm[..., 1:].nanmean(-1)).mean(0)
    np.testing.assert_allclose(measure(ValueDrain(), calls=[call]).value_drain[0], want)


def test_a_drained_first_value_shows(measure, call_of):
    call = call_of()
    call.v[:, 1, 0] *= 1e-3
    drain = measure(ValueDrain(), calls=[call]).value_drain.sel(layer=0)
    assert drain[1] < 0.01
    assert drain[0] > 0.2


def test_one_token_has_no_others(measure, call_of):
    with pytest.raises(Refusal, match=r"ValueDrain: wanted sequences of two tokens or more, got none in layer 0"):
        measure(ValueDrain(), calls=[call_of(T=1)])


def test_padding_on_the_left_is_refused(measure, call_of):
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, :3] = False
    with pytest.raises(Refusal, match=r"ValueDrain: wanted text at key 0, .*; pad on the right"):
        measure(ValueDrain(), calls=[call_of(key_mask=mask)], key_mask=mask)


def test_nan_is_named_with_its_layer(measure, call_of):
    bad = call_of()
    bad.v[0, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"ValueDrain: .* in layer 0"):
        measure(ValueDrain(), calls=[bad])
