"""A space small enough to be searched within a test."""

from __future__ import annotations

import pytest
import torch
from gatescope.search import SearchSpace
from gatescope.tasks import Digits


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def space() -> SearchSpace:
    """Two nodes, three edges, five candidates of four channels, one cell."""
    operations = ("zero", "skip", "average 3x3", "conv 1x1", "conv 3x3")
    return SearchSpace(operations=operations, nodes=2, cells=1, channels=4)


@pytest.fixture
def halves() -> tuple[Digits, Digits]:
    return Digits(fold="first half"), Digits(fold="second half")
