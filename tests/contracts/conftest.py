"""The tree as the contract tests see it: tracked files, and every module of the three packages, parsed once."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

PACKAGES = {"gatescope": "toolkit", "gatescope_kernels": "kernels", "gatescope_lessons": "lessons"}


@dataclass(frozen=True)
class Source:
    """One module: where it lies, its dotted name, its syntax tree."""

    path: Path
    name: str
    tree: ast.Module


@pytest.fixture(scope="session")
def tracked(root: Path) -> list[Path]:
    """Every file that is or would be committed, relative to the checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    return sorted(Path(name) for name in listed.split("\0") if name and (root / name).is_file())


@pytest.fixture(scope="session")
def sources(root: Path) -> list[Source]:
    """Every module of the three packages. A lesson's own page (lesson.py) is a notebook and is not among them."""
    found = []
    for package, folder in PACKAGES.items():
        base = root / folder
        for path in sorted((base / package).rglob("*.py")):
            if path.name == "lesson.py":
                continue
            dotted = ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")
            found.append(Source(path.relative_to(root), dotted, ast.parse(path.read_text(encoding="utf-8"))))
    return found


@pytest.fixture(scope="session")
def setup_steps(root: Path) -> ModuleType:
    """The set-up script's constants, imported from its folder as the script itself does."""
    sys.path.insert(0, str(root / "scripts"))
    return importlib.import_module("setup_steps")
