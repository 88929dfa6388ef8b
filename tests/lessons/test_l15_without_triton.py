"""Lesson 15 where Triton is not published: one message, no traceback, no exercise that nobody could pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gatescope_lessons import run
from gatescope_lessons.l15_fused_gate_kernel import checks, lab
from gatescope_lessons.l15_fused_gate_kernel import interpreter as place
from gatescope_lessons.l15_fused_gate_kernel.panel import access_panel
from gatescope_lessons.lesson_kit import EDITIONS, own_shelf
from gatescope_lessons.notebook_run import run_job

#: Python runs a file of this name when it starts; this one hides the package from every process of the run.
HIDE = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec


def hidden(name, path=None, target=None):
    return None if name.split(".")[0] == "triton" else find(name, path, target)


PathFinder.find_spec = staticmethod(hidden)
"""


@pytest.fixture
def nowhere(monkeypatch) -> None:
    for name in (f"{place.__name__}.find_spec", "gatescope_lessons.exercises.find_spec"):
        monkeypatch.setattr(name, lambda package: None)


@pytest.mark.usefixtures("nowhere")
def test_kernels_can_be_written_and_not_started() -> None:
    triton, tl = place.interpreter()

    @triton.jit
    def kernel(x_ptr, BLOCK: tl.constexpr): ...

    assert checks.sigmoid_block(kernel).status == "cannot run here"
    assert "Linux" in lab.compiled().alt_text
    panel = access_panel()
    assert panel.message == ""
    assert len(panel.frame()) == 0


@pytest.mark.notebooks
@pytest.mark.timeout(run.LIMITS["quick"].notebook + 60)
@pytest.mark.parametrize("edition", EDITIONS)
def test_the_notebook_runs_and_says_it_once(edition, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDE, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    [job] = run.plan(own_shelf(), ["l15_fused_gate_kernel"], "quick", [edition], tmp_path / "run")
    report = run_job(job)
    assert not report.failure, report.failure
    assert set(report.exercises.values()) == {"cannot run here"}
    cells = [cell for cell in json.loads(job.output.read_text())["cells"] if cell["cell_type"] == "code"]
    [said] = [cell for cell in cells if "gs-no-triton" in json.dumps(cell["outputs"])]
    assert "interpreter()" in "".join(said["source"])
