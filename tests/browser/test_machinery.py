"""The machinery itself, on a small notebook: run all, move a slider, see the figure answer, hear no console error."""

from __future__ import annotations

import nbformat
import pytest
from gatescope_lessons.editions import METADATA

CELLS = (
    "import io\nimport ipywidgets\nfrom matplotlib.figure import Figure",
    """
def picture(gate):
    figure = Figure(figsize=(4, 2))
    figure.subplots().bar(["first", "other"], [1 - gate, gate])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()

slider = ipywidgets.IntSlider(5, 0, 10, description="gate").add_class("gs-demo-slider")
image = ipywidgets.Image(value=picture(0.5))
text = ipywidgets.HTML("gate 0.5").add_class("gs-demo-text")

def redraw(change):
    image.value, text.value = picture(change["new"] / 10), f"gate {change['new'] / 10}"

slider.observe(redraw, "value")
ipywidgets.VBox([slider, ipywidgets.VBox([image]).add_class("gs-demo-view"), text])
""",
)


@pytest.fixture
def small(lab):
    """The small notebook in the lab's root, with whatever cells a test adds."""

    def write(*more):
        cells = [nbformat.v4.new_code_cell(source.strip()) for source in (*CELLS, *more)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=METADATA), lab.root / "small.ipynb")
        return "small.ipynb"

    return write


def test_a_slider_moves_a_figure(notebook, small):
    notebook.open(small())
    notebook.run_all()
    notebook.wait_done()
    assert notebook.error_outputs() == []
    before = notebook.seen("gs-demo-view")
    source = notebook.image_src("gs-demo-view")
    assert notebook.text_of("gs-demo-text") == "gate 0.5"
    assert notebook.move_slider("gs-demo-slider", 2) == "7"
    assert notebook.wait_changed("gs-demo-view", before) != before
    assert notebook.image_src("gs-demo-view") != source
    notebook.wait_text("gs-demo-text", "gate 0.7")
    assert notebook.move_slider("gs-demo-slider", -4) == "3"
    notebook.wait_text("gs-demo-text", "gate 0.3")
    assert notebook.console_errors == []
    assert notebook.overflowing() == []
    assert notebook.screenshot("machinery").stat().st_size > 10_000


def test_what_goes_wrong_is_seen(notebook, small):
    wide = "ipywidgets.HTML('<div style=\"width: 3000px\">wide</div>')"
    alert = "ipywidgets.HTML('<div role=\"alert\">a refusal</div>')"
    console = "from IPython.display import Javascript\nJavascript('console.error(\"heard\")')"
    notebook.open(small(wide, alert, console, "1 / 0"))
    notebook.run_all()
    notebook.wait_done()
    assert "ZeroDivisionError" in notebook.error_outputs()[0]
    assert "wide" in notebook.overflowing()[0]
    assert notebook.alerts() == ["a refusal"]
    assert any("heard" in error for error in notebook.console_errors)
    before = notebook.seen("gs-demo-view")
    with pytest.raises(AssertionError, match="shows the same after"):
        notebook.wait_changed("gs-demo-view", before, seconds=0.5)
    (notebook.screens / f"{notebook.name}-failure.png").unlink()
