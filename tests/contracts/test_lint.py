"""What `make lint` says is part of `make test`: style, format, and the types of the public API."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize("command", ["ruff check", "ruff format --check", "mypy"])
def test_lint_has_nothing_to_say(root: Path, require: Callable[..., None], command: str) -> None:
    tool, *arguments = command.split()
    require(tool)
    done = subprocess.run(
        [sys.executable, "-m", tool, *arguments], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
