"""Every enrolled lesson in a real JupyterLab: it opens, runs to its end, and its main control moves its main view. In
the light and in the dark theme nothing is cut off and everything can be read."""

from __future__ import annotations

import pytest
from gatescope_lessons.lesson_kit import own_shelf

from .accessible import OURS, violations
from .gallery import DARK

SHELF = own_shelf()
RUN_SECONDS = 200
OUTPUTS = ".jp-OutputArea-output"


@pytest.mark.timeout(2 * RUN_SECONDS)
@pytest.mark.parametrize("folder", SHELF.folders())
def test_a_lesson_runs_and_its_main_control_moves_its_main_view(notebook, folder):
    lesson = SHELF.lesson(folder)
    notebook.open(SHELF.notebook(folder, "exercise").name)
    notebook.run_all()
    notebook.wait_done(RUN_SECONDS)
    notebook.screenshot(folder)
    assert notebook.error_outputs() == []
    assert notebook.alerts() == []
    if lesson.main_control:
        before = notebook.seen(lesson.main_view)
        assert before.strip(), f"nothing of class {lesson.main_view} to be seen"
        notebook.move_slider(lesson.main_control, -2)
        notebook.wait_changed(lesson.main_view, before)
        assert notebook.alerts() == []
    found = {"light": violations(notebook.page, OUTPUTS, rules=OURS)}
    with notebook.dark():
        notebook.screenshot(f"{folder}{DARK}")
        found["dark"] = violations(notebook.page, OUTPUTS, rules=OURS)
    assert found == {"light": [], "dark": []}
    assert notebook.overflowing() == []
    assert notebook.console_errors == []
