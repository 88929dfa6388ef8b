"""A slider that is moved faster than its panel draws: it ends at the last value, and does not draw all between."""

from __future__ import annotations

import nbformat
from gatescope_lessons.editions import METADATA
from playwright.sync_api import expect

SLOW = """
import time
import ipywidgets, pandas as pd
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.views.style import card

class Slow(Panel):
    slug = "slow"
    pictures = ("square",)
    drawn = 0

    def draw(self, state):
        self.drawn += 1
        time.sleep(0.4)
        said = card(f"{state['x']} squared is {state['x'] ** 2}, drawing {self.drawn}", [], "", "square")
        return {"square": Drawing(said, pd.DataFrame())}

panel = Slow({"x": ipywidgets.IntSlider(20, 0, 20)})
panel.refresh()
panel
"""
MOVES = 12


def test_a_slider_moved_faster_than_it_is_drawn_ends_at_its_last_value(notebook, lab):
    cell = nbformat.v4.new_code_cell(SLOW.strip())
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=METADATA), lab.root / "moving.ipynb")
    notebook.open("moving.ipynb")
    notebook.run_all()
    notebook.wait_done(60)
    notebook.move_slider("gs-slow-x", -MOVES)
    view = notebook.page.locator(".gs-slow-square")
    expect(view).to_contain_text("8 squared is 64", timeout=30_000)
    drawn = notebook.wait_number("gs-slow-square", r"drawing (\d+)")
    assert 2 < drawn < MOVES  # the first, one while moving, the last; not each of twelve
    assert notebook.console_errors == []
