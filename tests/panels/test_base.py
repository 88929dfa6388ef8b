"""What every panel promises: settings, reset, errors that stay inside, code that restores."""

import subprocess
import sys

import ipywidgets
import pandas as pd
import pytest
from gatescope import panels
from gatescope.errors import Refusal
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.views.style import card


class Square(Panel):
    """Draws the square of a slider."""

    slug = "square"
    pictures = ("square",)

    def __init__(self):
        self.drawn = 0
        controls = {
            "x": ipywidgets.IntSlider(2, 0, 10),
            "unit": ipywidgets.Dropdown(options=["m", "cm"]),
        }
        super().__init__(controls)
        self.refresh()

    def draw(self, state):
        self.drawn += 1
        if state["x"] == 7:
            raise ZeroDivisionError("<i>seven</i>")
        if state["x"] == 8:
            raise Refusal("square", "another number", "8", "take 9")
        square = state["x"] ** 2
        return {"square": Drawing(card(f"{square}", [], "", "square"), pd.DataFrame({"square": [square]}))}


@pytest.fixture
def panel():
    return Square()


def value(panel):
    return panel.frame()["square"].item()


def test_a_control_moved_in_code_redraws_before_the_assignment_returns(panel):
    panel.x.value = 5
    assert value(panel) == 25


def test_importing_panels_imports_nothing_that_draws():
    script = (
        "import sys; from gatescope import panels; dir(panels)\n"
        "print([m for m in ('torch', 'plotly', 'matplotlib', 'ipywidgets') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_row_of_the_table_is_a_panel():
    assert [getattr(panels, name).__name__ for name in panels.PANELS] == list(panels.PANELS)
    with pytest.raises(AttributeError, match="explore"):
        panels.explorer  # noqa: B018


def test_every_control_can_be_found_on_the_page(panel):
    assert "gs-square-x" in panel.x._dom_classes
    assert "gs-square-reset" in panel.reset_button._dom_classes
    assert "gs-square" in panel.widget._dom_classes


@pytest.mark.parametrize(
    ("x", "text"),
    [(7, "ZeroDivisionError: &lt;i&gt;seven&lt;/i&gt;"), (8, "square: wanted another number, got 8; take 9")],
)
def test_an_error_is_words_in_the_panel_and_the_picture_stays(panel, capfd, x, text):
    panel.x.value = x
    assert text in panel.error.value
    assert "<i>" not in panel.error.value
    assert value(panel) == 4
    assert panel.busy.value == ""
    panel.x.value = 3
    assert (panel.error.value, value(panel)) == ("", 9)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_reset_restores_and_redraws(panel):
    panel.apply(x=6, unit="cm")
    panel.reset_button.click()
    assert panel.state == {"x": 2, "unit": "m"}
    assert value(panel) == 4


def test_apply_redraws_once(panel):
    before = panel.drawn
    panel.apply(x=3, unit="cm")
    assert panel.drawn == before + 1


@pytest.mark.parametrize("bad", [{"y": 1}, {"x": 99}, {"x": 3, "unit": "km"}, {"x": "three"}])
def test_apply_refuses_what_a_control_cannot_take_and_changes_nothing(panel, bad):
    with pytest.raises(Refusal, match="square: wanted"):
        panel.apply(**bad)
    assert panel.state == {"x": 2, "unit": "m"}


def test_the_code_restores_the_settings(panel):
    panel.apply(x=6, unit="cm")
    assert panel.code_area.value == panel.code
    other = Square()
    eval(panel.code, {"panel": other})
    assert other.state == panel.state
    assert value(other) == 36


def test_busy_while_drawing(panel):
    seen = []
    panel.busy.observe(lambda change: seen.append("computing" in change["new"]), "value")
    panel.x.value = 4
    assert seen == [True, False]


def test_an_unknown_picture_lists_those_there_are(panel):
    with pytest.raises(Refusal, match="square"):
        panel.frame("cube")


def test_screen_readers_get_the_alt_text(panel):
    alt = panel._pictures["square"].widget.children[0]
    assert ">4<" in alt.value
