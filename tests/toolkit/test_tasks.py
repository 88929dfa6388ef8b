"""BigramBinding: sequences obey the generating process, and no predictor can beat the loss it says is best."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from gatescope.errors import Refusal
from gatescope.tasks import BigramBinding

TASK = BigramBinding()


def test_same_seed_same_batch() -> None:
    first, again = TASK.batch((3, 7), 16), TASK.batch((3, 7), 16)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], TASK.batch((3, 8), 16)[0])
    assert not torch.equal(first[0], TASK.batch((4, 7), 16)[0])
    assert not np.array_equal(TASK.transitions, BigramBinding(chain_seed=1).transitions)


def test_every_sequence_obeys_the_process() -> None:
    """Token by token: BOS once and first; a trigger always brings the same ordinary value; the mask is what it says."""
    tokens, mask = TASK.batch(0, 40)
    assert tokens.shape == mask.shape == (40, 48)
    assert mask.any()
    for row, marked in zip(tokens.tolist(), mask.tolist(), strict=True):
        assert row[0] == TASK.bos
        assert TASK.bos not in row[1:]
        bound: dict[int, int] = {}
        for t, (now, following) in enumerate(pairwise(row)):
            assert marked[t] == (now in bound)
            if 1 <= now <= TASK.n_triggers:
                assert bound.setdefault(now, following) == following
                assert following > TASK.n_triggers
            else:
                assert TASK.transitions[now, following] > 0
        assert not marked[-1]


def test_frequencies_are_the_transitions() -> None:
    tokens = TASK.batch(1, 4000)[0].numpy()
    counts = np.zeros_like(TASK.transitions)
    np.add.at(counts, (tokens[:, :-1].ravel(), tokens[:, 1:].ravel()), 1)
    for row in range(TASK.vocab):
        n = counts[row].sum()
        tolerance = 5 * np.sqrt(TASK.transitions[row] / n) + 5 / n
        if 1 <= row <= TASK.n_triggers:
            tolerance = tolerance * 3  # values come in runs: one draw serves a whole sequence
        assert (np.abs(counts[row] / n - TASK.transitions[row]) < tolerance).all(), row


def test_best_loss_is_what_the_true_probabilities_score() -> None:
    """Scores the generating process itself on samples, position by position."""
    tokens, mask = (tensor.numpy() for tensor in TASK.batch(2, 4000))
    now, following, seen = tokens[:, :-1], tokens[:, 1:], mask[:, :-1]
    trigger = (now >= 1) & (now <= TASK.n_triggers)
    nll = -np.log(TASK.transitions[now, following])
    best = TASK.best_loss()
    assert nll[~trigger].mean() == pytest.approx(best["ordinary"], abs=0.01)
    assert nll[trigger & ~seen] == pytest.approx(best["first"])
    assert best["first"] == pytest.approx(math.log(29))
    assert best["trigger"] == 0.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_triggers": 0}, "at least 1 trigger"),
        ({"n_triggers": 31}, "2 ordinary tokens"),
        ({"trigger_share": 0.0}, "trigger_share"),
        ({"trigger_share": 1.0}, "trigger_share"),
        ({"concentration": 0.0}, "concentration"),
        ({"length": 4}, "length"),
    ],
)
def test_refuses_sizes_without_a_task(changes: dict, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        BigramBinding(**changes)


def test_refuses_an_empty_batch() -> None:
    with pytest.raises(Refusal, match="size >= 1"):
        TASK.batch(0, 0)
