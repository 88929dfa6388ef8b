"""Clusters: seeded, of the moments they promise, and linear within each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gatescope.errors import Refusal
from gatescope.tasks import GaussianClusters

TASK = GaussianClusters()


def test_batches_are_those_of_their_seed():
    for own, again, other in zip(TASK.batch((1, 2), 9), TASK.batch((1, 2), 9), TASK.batch((1, 3), 9), strict=True):
        assert torch.equal(own, again)
        assert not torch.equal(own, other)
    assert not torch.equal(TASK.batch(0, 9)[0], GaussianClusters(task_seed=1).batch(0, 9)[0])


def test_within_a_cluster_the_target_is_linear_and_across_clusters_it_is_not():
    x, y, c = (part.numpy().astype(float) for part in TASK.batch(0, 8000))

    def unexplained(rows: np.ndarray) -> float:
        inputs = np.column_stack([x[rows], np.ones(rows.sum())])
        fit = inputs @ np.linalg.lstsq(inputs, y[rows], rcond=None)[0]
        return float(((y[rows] - fit) ** 2).mean())

    assert max(unexplained(c == cluster) for cluster in range(8)) < 1e-10
    assert unexplained(np.ones(len(x), dtype=bool)) > 0.3
    assert y.var() == pytest.approx(1, abs=0.25)
    assert np.bincount(c.astype(int)).min() > 800


def test_refusals():
    with pytest.raises(Refusal, match="2 clusters or more"):
        GaussianClusters(clusters=1)
    with pytest.raises(Refusal, match="size >= 1"):
        TASK.batch(0, 0)
