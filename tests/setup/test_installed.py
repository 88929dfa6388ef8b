"""The editable install: all three packages from any folder, from this checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("package", "folder"),
    [("gatescope", "toolkit"), ("gatescope_kernels", "kernels"), ("gatescope_lessons", "lessons")],
)
def test_a_package_is_imported_from_this_checkout(root: Path, tmp_path: Path, package: str, folder: str) -> None:
    command = [sys.executable, "-c", f"import {package}; print({package}.__file__)"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).resolve() == root / folder / package / "__init__.py"
