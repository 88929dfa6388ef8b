"""panels.study on the page: a study that still runs, its controls, and the store read again."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest
from gatescope.studies import Store, expand
from gatescope_lessons.editions import METADATA

TOYS = Path(__file__).parents[1] / "studies"
sys.path.insert(0, str(TOYS))

STUDY = """
title = "A toy"
point = "toy_points:measure"
code = ["toy_points"]
control = { kind = "plain" }
match = ["rate"]

[[grid]]
kind = ["plain", "gated", "wide"]
rate = [0.5, 0.4]
seed = [0, 1, 2]

[[metric]]
name = "loss"
variable = "loss"

[[metric]]
name = "first"
variable = "first_attention"
over = { layer = "max", head = "max" }
"""
CELL = f"""
import sys
sys.path.insert(0, {str(TOYS)!r})
from gatescope import panels

panel = panels.study("toy.toml", store="store")
panel
"""


@pytest.fixture
def study(lab):
    """The study's file and its notebook in the lab's root, and a way to finish its first points."""
    from gatescope.studies import load
    from toy_points import Toy, measure

    (lab.root / "toy.toml").write_text(STUDY, encoding="utf-8")
    cells = [nbformat.v4.new_code_cell(CELL.strip())]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=METADATA), lab.root / "study.ipynb")
    points, store = expand(load(lab.root / "toy.toml")).points, Store(lab.root / "store")

    def finish(count):
        for point in points[:count]:
            store.put(point, measure(Toy(**point.config)), {"seconds": 1.0})

    return finish


def test_a_study_that_runs_is_watched(notebook, study):
    study(12)
    notebook.open("study.ipynb")
    notebook.run_all()
    notebook.wait_done()
    assert notebook.error_outputs() == []
    assert "6 of 18 points are missing" in notebook.text_of("gs-study-effects")
    before = notebook.seen("gs-study-effects")

    study(18)
    notebook.page.locator(".gs-study-again").click()
    notebook.wait_changed("gs-study-effects", before)
    assert "0 of 18 points are missing" in notebook.text_of("gs-study-effects")

    strip = notebook.seen("gs-study-variant-strip")
    notebook.page.locator(".gs-study-metric select").select_option("first")
    notebook.wait_changed("gs-study-variant-strip", strip)
    effects = notebook.seen("gs-study-effects")
    notebook.page.locator(".gs-study-where select").select_option("rate = 0.4")
    notebook.wait_changed("gs-study-effects", effects)
    assert "rate=0.5" not in notebook.text_of("gs-study-effects")
    notebook.screenshot("study")
    assert notebook.alerts() == []
    assert notebook.overflowing() == []
    assert notebook.console_errors == []
