"""A space small enough to be searched within a test."""

from __future__ import annotations

import pytest
from gatescope.search import SearchSpace
from gatescope.tasks import Digits


@pytest.fixture
def space() -> SearchSpace:
    """Two nodes, three edges, five candidates of four channels, one cell."""
    operations = ("zero", "skip", "average 3x3", "conv 1x1", "conv 3x3")
    return SearchSpace(operations=operations, nodes=2, cells=1, channels=4)


@pytest.fixture
def halves() -> tuple[Digits, Digits]:
    return Digits(fold="first half"), Digits(fold="second half")
