"""Notebooks are built, never edited: enrolled, in step with their lesson, without outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gatescope_lessons import build

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").rglob("*.ipynb"))


def test_every_notebook_is_enrolled_and_in_step_with_its_lesson() -> None:
    assert build.check() == []


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_notebook_has_no_outputs_and_names_its_kernel(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code
    assert [index for index, cell in enumerate(code) if cell["outputs"] or cell["execution_count"] is not None] == []
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert "widgets" not in notebook["metadata"]
