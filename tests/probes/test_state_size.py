"""State sizes against a sorted matrix, classes at their bounds, and rows read a few at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gatescope.errors import Refusal
from gatescope.interventions import MaskKeys, ScaleLogits
from gatescope.probes import StateSize, state_size
from gatescope.probes.state_size import MODES
from gatescope_kernels import Visibility


def sizes(A, see, mass=0.9):
    """k of every row by adding up the largest weights one after another; 0 where a row sees nothing."""
    found = torch.zeros(A.shape[:-1], dtype=torch.int64)
    for place in np.ndindex(*A.shape[:-1]):
        row, total = sorted(A[place].tolist(), reverse=True), float(A[place].sum())
        reached, k = 0.0, 0
        while total > 0 and reached < total * mass * (1 - 1e-12):
            reached, k = reached + row[k], k + 1
        found[place] = k
    return found, see.sum(-1)


def test_sizes_and_shares_are_those_of_the_sorted_matrix(call, measure, oracle):
    k, n = sizes(*oracle(call))
    counted = n > 0
    if call.key_mask is not None:
        counted &= call.key_mask[:, -call.q.shape[2] :]
    counted &= torch.arange(k.shape[-1]) + call.k.shape[2] - k.shape[-1] >= 1
    record = measure(StateSize(), calls=[call])
    rows = k.movedim(1, -1)[counted].double()
    np.testing.assert_allclose(record.state_size[0], rows.mean(0), atol=1e-9)
    np.testing.assert_allclose(record.state_share[0], (rows / n[counted][:, None]).mean(0), atol=1e-6)
    assert record.state_size.attrs["baseline_value"] == pytest.approx(float((0.9 * n[counted]).ceil().mean()))
    np.testing.assert_allclose(record.mode_share.sum("mode"), 1)


def keys_of(weight, T=64):
    """A call whose last row, and no other, reads key j with weight[j]."""
    q = torch.zeros(1, 1, T, T, dtype=torch.float64)
    q[0, 0, -1] = torch.tensor(weight, dtype=torch.float64).clamp_min(1e-30).log()
    k = torch.eye(T, dtype=torch.float64)[None, None]
    return q, k


BOUNDS = {1: "IV", 2: "IV", 3: "III", 8: "III", 9: "II", 32: "II", 33: "I", 64: "I"}


@pytest.mark.parametrize(("count", "mode"), BOUNDS.items())
def test_classes_change_at_their_bounds(measure, call_of, count, mode):
    T = 64
    weight = np.zeros(T)
    weight[:count] = 1 / count
    q, k = keys_of(weight, T)
    call = replace(call_of(B=1, H=1, G=1, T=T, K=T), q=q, k=k, scale=1.0)
    record = measure(StateSize(mass=0.999, first_query=T - 1), calls=[call])
    assert record.state_size.item() == count
    assert record.mode_share.sel(mode=mode).item() == 1
    assert MODES[record.operating_mode.item() - 1] == mode


def test_the_median_row_gives_the_mode(measure, call_of):
    # Rows 1 to 3 read one key, rows 4 and 5 all of them.
    call = call_of(B=1, H=1, G=1, T=6, K=6)
    q = torch.zeros_like(call.q)
    q[:, :, 1:4] = 80 * torch.eye(6, dtype=torch.float64)[0]
    k = torch.eye(6, dtype=torch.float64)[None, None]
    record = measure(StateSize(), calls=[replace(call, q=q, k=k, scale=1.0)])
    np.testing.assert_allclose(record.mode_share[0, 0], [0.4, 0, 0, 0.6])
    assert record.operating_mode.item() == 4
    late = measure(StateSize(first_query=4), calls=[replace(call, q=q, k=k, scale=1.0)])
    assert late.operating_mode.item() == 1


def test_a_skipped_key_is_as_if_hidden(measure, call_of):
    call = call_of()
    call.q[..., 0], call.k[..., 0] = 60 * 8**0.5, 0.0
    call.k[:, :, 0, 0] = 1.0  # a sink
    assert float(measure(StateSize(), calls=[call]).state_size.max()) == 1
    skipped = measure(StateSize(skip=(0,)), calls=[call])
    hidden = measure(StateSize(), calls=[MaskKeys([0]).apply(call, 0)])
    np.testing.assert_allclose(skipped.state_size, hidden.state_size)
    assert skipped.state_size.attrs["skipped_keys"] == "[0]"
    assert float(skipped.state_size.min()) > 1


def test_a_few_rows_at_a_time_are_all_rows(measure, call_of, monkeypatch):
    call = call_of(H=6, G=2, visibility=Visibility(window=5))
    whole = measure(StateSize(), calls=[call])
    monkeypatch.setattr(state_size, "_AT_ONCE", 2 * 6 * 12 * 5)
    several = measure(StateSize(), calls=[call])
    for name in whole.data_vars:
        np.testing.assert_allclose(several[name], whole[name])


def test_packed_documents_are_as_if_alone(measure, call_of):
    call = call_of(B=1, T=12)
    packed = replace(call, documents=torch.tensor([[0] * 5 + [1] * 7]))
    parts = [replace(call, q=call.q[:, :, p], k=call.k[:, :, p], v=call.v[:, :, p]) for p in (slice(5), slice(5, 12))]
    together = measure(StateSize(skip=(0,)), calls=[packed])
    apart = measure(StateSize(skip=(0,)), *({"calls": [part]} for part in parts))
    for name in together.data_vars:
        np.testing.assert_allclose(together[name], apart[name])


def test_a_higher_beta_makes_states_smaller(measure, call_of):
    call = call_of(T=40)
    found = [
        float(measure(StateSize(), calls=[ScaleLogits(b).apply(call, 0)]).state_share.mean()) for b in (0.01, 1, 9)
    ]
    assert found[0] > 0.85
    assert found == sorted(found, reverse=True)


def test_refusals(measure, call_of):
    for given in ({"mass": 1.0}, {"first_query": -1}, {"skip": (-1,)}):
        with pytest.raises(Refusal, match="StateSize: wanted a mass between 0 and 1"):
            StateSize(**given)
    with pytest.raises(Refusal, match="StateSize: wanted rows that see a key, got none in layer 0"):
        measure(StateSize(first_query=12), calls=[call_of()])
