"""Rows and columns of attention asked for one by one, against the materialised matrix."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gatescope.errors import Refusal
from gatescope.probes import AttentionRows
from gatescope.taps import attached


def kept(player, *calls):
    rows = AttentionRows()
    with torch.no_grad(), attached(player, rows):
        player(calls=calls)
    return rows


def alone(call, sample):
    """One sequence of a batch."""
    own = {name: getattr(call, name)[sample : sample + 1] for name in ("q", "k", "v")}
    return replace(call, **own, key_mask=None if call.key_mask is None else call.key_mask[sample : sample + 1])


def test_every_row_and_column_is_that_of_the_matrix(player, call, oracle):
    for sample in range(len(call.q)):
        own = alone(call, sample)
        (A,), (see,) = oracle(own)
        rows = kept(player, own)
        text = see.any(-1)
        for head in (*range(A.shape[0]), None):
            wanted = A.mean(0) if head is None else A[head]
            for i in range(A.shape[1]):
                if text[i]:
                    torch.testing.assert_close(rows.reads(0, i, head), wanted[i], atol=1e-10, rtol=0)
            for j in range(A.shape[2]):
                torch.testing.assert_close(rows.read_by(0, j, head)[text], wanted[text, j], atol=1e-10, rtol=0)


def test_statistics_are_those_of_the_matrix(player, call_of, oracle):
    call = call_of(B=1)
    (A,), _ = oracle(call)
    about = kept(player, call).layer(0)
    torch.testing.assert_close(about.first, A[..., 0])
    torch.testing.assert_close(about.received, A.sum(1))
    torch.testing.assert_close(about.entropy, -(A * A.clamp(min=1e-300).log()).sum(-1))
    assert about.visible.tolist() == list(range(1, 13))


def test_documents_do_not_read_each_other(player, call_of):
    call = call_of(B=1)
    packed = kept(player, replace(call, documents=torch.tensor([[0] * 5 + [1] * 4 + [2] * 3])))
    own = replace(call, **{name: getattr(call, name)[:, :, 5:9] for name in ("q", "k", "v")})
    apart = kept(player, own)
    assert not packed.reads(0, 9)[:9].any()
    for i in range(4):
        torch.testing.assert_close(packed.reads(0, 5 + i, 1)[5:9], apart.reads(0, i, 1))
        torch.testing.assert_close(packed.read_by(0, 5 + i, 1)[5:9], apart.read_by(0, i, 1))


def test_soft_caps_are_seen(player, call_of):
    call = call_of(B=1, softcap=0.5)
    rows = kept(player, call)
    for i in (0, 5, 11):
        assert float(rows.reads(0, i, 0).sum()) == pytest.approx(1)
    assert float(rows.reads(0, 11, 0).max()) < 3 / 12


def test_a_later_pass_replaces_an_earlier_one(player, call_of):
    rows = AttentionRows()
    with torch.no_grad(), attached(player, rows):
        player(calls=[call_of(B=1, T=12)] * 2)
        player(calls=[call_of(B=1, T=7)] * 2)
    assert rows.layers == (0, 1)
    assert rows.reads(1, 3).shape == (7,)


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda rows: rows.reads(3, 0), "a layer that was seen, got 3; seen: 0"),
        (lambda rows: rows.reads(0, 12), r"a query in \[0, 12\), got 12"),
        (lambda rows: rows.read_by(0, -1), r"a key in \[0, 12\), got -1"),
        (lambda rows: rows.reads(0, 0, head=4), r"a head in \[0, 4\), got 4"),
    ],
)
def test_what_is_not_there_is_refused(player, call_of, ask, told):
    with pytest.raises(Refusal, match=told):
        ask(kept(player, call_of(B=1)))


def test_a_batch_is_refused(player, call_of):
    with pytest.raises(Refusal, match="one sequence, got a batch of 2"):
        kept(player, call_of(B=2))
