"""Every notebook of the shelf, both editions, from the first cell to the last in a kernel of its own.

A crash, an error inside a widget, or an exercise that does not end as its edition must is a failure with its traceback.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import pytest
from gatescope_lessons import run
from gatescope_lessons.lesson_kit import EDITIONS, Edition, own_shelf
from gatescope_lessons.notebook_run import run_job

pytestmark = pytest.mark.notebooks
WIDGETS: dict[Edition, Literal["drop", "keep"]] = {"exercise": "drop", "solution": "keep"}


@pytest.mark.timeout(run.LIMITS["quick"].notebook + 60)
@pytest.mark.parametrize("edition", EDITIONS)
@pytest.mark.parametrize("folder", own_shelf().folders())
def test_a_notebook_runs_to_its_end(folder: str, edition: Edition, artifacts: Path) -> None:
    # Solved ones become pages of the site in a browser test.
    [job] = run.plan(own_shelf(), [folder], "quick", [edition], artifacts / "executed", widgets=WIDGETS[edition])
    shutil.rmtree(job.folder, ignore_errors=True)
    report = run_job(job)
    assert not report.failure, report.failure
    assert report.exercises, "no exercise of this notebook was checked"
