"""MQAR: labels are right by a dictionary that reads the sequence from the left, and sizes are what was asked for."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from gatescope.errors import Refusal
from gatescope.tasks import MQAR

TASKS = {
    "tight": MQAR(pairs=16, length=64),
    "roomy": MQAR(pairs=3, length=40, vocab=16),
    "one pair": MQAR(pairs=1, length=4, vocab=4),
    "segments": MQAR(pairs=5, length=63, segments=3),
    "roomy segments": MQAR(pairs=2, length=48, vocab=10, segments=4),
}
each_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@each_task
def test_labels_are_those_of_a_dictionary(task: MQAR) -> None:
    """A key that the dictionary does not know yet is being told, a known one is a question; a boundary empties it."""
    tokens, mask = task.batch(0, 50)
    assert tokens.shape == mask.shape == (50, task.length)
    for row, marked in zip(tokens.tolist(), mask.tolist(), strict=True):
        known: dict[int, int] = {}
        asked: list[list[int]] = [[]]
        for (token, following), question in zip(pairwise(row), marked, strict=False):
            if token == task.BOUNDARY:
                known, asked = {}, [*asked, []]
            is_key = 1 <= token < task.first_value
            assert question == (is_key and token in known)
            if question:
                assert following == known[token]
                asked[-1].append(token)
            elif is_key:
                assert following >= task.first_value
                known[token] = following
        segments = [keys for keys in asked if keys]
        assert len(segments) == task.segments
        assert all(len(set(keys)) == len(keys) == task.pairs for keys in segments)
        assert len({frozenset(keys) for keys in segments}) == 1
        assert not marked[-1]
    assert int(mask.sum()) == 50 * task.pairs * task.segments


def test_same_seed_same_batch() -> None:
    task = TASKS["segments"]
    first, again = task.batch((3, 7), 16), task.batch((3, 7), 16)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], task.batch((3, 8), 16)[0])
    assert not torch.equal(first[0], task.batch((4, 7), 16)[0])


def test_keys_values_and_places_are_uniform() -> None:
    task = MQAR(pairs=2, length=12, vocab=12)
    tokens, mask = task.batch(1, 6000)
    told = tokens[:, 0].bincount(minlength=12)[1:6] / 6000
    answers = tokens[:, 1:][mask[:, :-1]].bincount(minlength=12)[6:] / 12000
    assert (told - 1 / 5).abs().max() < 0.03
    assert (answers - 1 / 6).abs().max() < 0.03
    # 8 places behind the bindings hold 2 questions and 4 fillers: of 6 items in random order the first is a question
    # in 2 of 6 cases.
    assert mask[:, 4].double().mean() == pytest.approx(1 / 3, abs=0.03)
    order_kept = (tokens[:, 0:1] == tokens.gather(1, mask.int().argmax(1, keepdim=True))).double().mean()
    assert order_kept == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pairs": 0}, "pairs >= 1"),
        ({"segments": 0}, "segments >= 1"),
        ({"pairs": 64}, "no more pairs than there are keys"),
        ({"length": 63}, "at least 64 tokens each"),
        ({"segments": 3}, "use length=195"),
        ({"pairs": 2, "segments": 3}, "equal length"),
    ],
)
def test_refuses_sizes_without_a_task(changes: dict, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        replace(TASKS["tight"], **changes)


def test_refuses_an_empty_batch() -> None:
    with pytest.raises(Refusal, match="size >= 1"):
        MQAR().batch(0, 0)
