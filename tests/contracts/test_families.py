"""The page of families is the one that the table and the tests write."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def test_the_page_of_families_is_the_one_written_now(root: Path, require: Callable[..., None]) -> None:
    require("transformers")
    command = [sys.executable, "scripts/families.py", "--check"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
