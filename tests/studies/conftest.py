"""A toy study whose points cost nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from gatescope.studies import Store, Study

# `toy_points` by its name, here and in the processes that a run starts.
sys.path.insert(0, str(Path(__file__).parent))
from toy_study import TOY


@pytest.fixture
def toy() -> Callable[..., Study]:
    """The toy study with changes."""
    return lambda **changes: replace(TOY, **changes)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The points that were begun: "kind seed" a line, by any process."""
    log = tmp_path / "started.log"
    monkeypatch.setenv("TOY_POINTS_LOG", str(log))
    return lambda: [line.rsplit(" ", 1)[0] for line in log.read_text().splitlines()] if log.exists() else []
