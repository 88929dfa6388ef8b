"""A packed sequence is measured as its documents would be, one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gatescope.errors import Refusal
from gatescope.probes import Entropy, Sinks, ValueDrain
from gatescope_kernels import Visibility

IDS = torch.tensor([[0, 0, 0, 0, 0, 3, 3, 4, 4, 4, 4, 4], [1] * 9 + [2] * 3])
#: Sample and extent of every document of IDS.
DOCUMENTS = [(0, 0, 5), (0, 5, 7), (0, 7, 12), (1, 0, 9), (1, 9, 12)]
RULES = {
    "causal": Visibility(),
    "window": Visibility(window=3),
    "window_with_sinks": Visibility(window=2, sink_tokens=2),
    "two_sided": Visibility(causal=False, window=2, sink_tokens=1),
}
MAKERS = {
    "sinks": lambda: Sinks(chosen=(0, 1), epsilon=0.4),
    "entropy": Entropy,
    "value_drain": ValueDrain,
}


def cut(call, sample, start, stop):
    part = slice(sample, sample + 1)
    mask = None if call.key_mask is None else call.key_mask[part, start:stop]
    return replace(
        call,
        q=call.q[part, :, start:stop],
        k=call.k[part, :, start:stop],
        v=call.v[part, :, start:stop],
        key_mask=mask,
        documents=None,
    )


def same(one, other):
    assert set(one.data_vars) == set(other.data_vars)
    for name in one.data_vars:
        np.testing.assert_allclose(one[name], other[name], atol=1e-9, err_msg=name)
        ours, theirs = (record[name].attrs.get("baseline_value", 0.0) for record in (one, other))
        assert ours == pytest.approx(theirs), name


@pytest.mark.parametrize("sink", [None, 0.2])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_packed_is_the_same_as_one_by_one(measure, call_of, make, rule, sink):
    call = call_of(H=6, G=2, visibility=rule, sink=sink, documents=IDS)
    apart = [{"calls": [cut(call, *place)]} for place in DOCUMENTS]
    same(measure(make(), calls=[call]), measure(make(), *apart))


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_padding_may_be_a_document_or_the_end_of_one(measure, call_of, make, inference):
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, 10:], mask[1, 9:] = False, False
    with torch.inference_mode(inference):
        call = call_of(documents=IDS.clone(), key_mask=mask.clone())
        packed = measure(make(), calls=[call], key_mask=mask)
        apart = [{"calls": [cut(call, *place)]} for place in [(0, 0, 5), (0, 5, 7), (0, 7, 10), (1, 0, 9)]]
        same(packed, measure(make(), *apart))


@pytest.mark.parametrize("make", [Sinks, ValueDrain])
def test_padding_before_the_text_of_a_document_is_refused(measure, call_of, make):
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, 5] = False
    with pytest.raises(Refusal, match="padding in some sequence; pad on the right"):
        measure(make(), calls=[call_of(documents=IDS, key_mask=mask)], key_mask=mask)


def test_one_document_is_no_document(measure, call_of):
    plain = call_of()
    packed = replace(plain, documents=torch.zeros(2, 12, dtype=torch.long))
    for make in MAKERS.values():
        same(measure(make(), calls=[packed]), measure(make(), calls=[plain]))
