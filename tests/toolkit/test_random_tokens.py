"""Random tokens: a pool that stays, or batches that never repeat, and nothing to predict in either."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gatescope.errors import Refusal
from gatescope.tasks import RandomTokens


def test_a_pool_is_all_there_is() -> None:
    task = RandomTokens(count=5)
    known = {tuple(row) for row in task.pool.tolist()}
    tokens, mask = task.batch((0, 1), 200)
    assert mask is None
    assert {tuple(row) for row in tokens.tolist()} == known
    assert torch.equal(tokens, RandomTokens(count=5).batch((0, 1), 200)[0])
    assert not torch.equal(task.pool, RandomTokens(count=5, pool_seed=1).pool)


def test_without_a_pool_nothing_repeats() -> None:
    task = RandomTokens(count=0)
    first, second = (task.batch((0, step), 50)[0] for step in (0, 1))
    assert len({tuple(row) for row in torch.cat([first, second]).tolist()}) == 100


def test_a_token_says_nothing_about_the_next() -> None:
    tokens = RandomTokens(count=0, vocab=4, length=200).batch(0, 400)[0].numpy()
    pairs = np.zeros((4, 4))
    np.add.at(pairs, (tokens[:, :-1].ravel(), tokens[:, 1:].ravel()), 1)
    assert np.abs(pairs / pairs.sum() - 1 / 16).max() < 0.002


def test_refusals() -> None:
    for changes in ({"count": -1}, {"vocab": 1}, {"length": 1}):
        with pytest.raises(Refusal, match="count >= 0"):
            RandomTokens(**changes)
    with pytest.raises(Refusal, match="size >= 1"):
        RandomTokens().batch(0, 0)
