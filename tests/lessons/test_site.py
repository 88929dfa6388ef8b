"""Pages to read without running: everything a notebook shows is on its page, and nothing is fetched from elsewhere."""

from __future__ import annotations

import re
from itertools import pairwise

import nbformat
import pytest
from gatescope.errors import Refusal
from gatescope_lessons.lesson_kit import own_shelf
from gatescope_lessons.site.command import write_site
from gatescope_lessons.site.markdown import heading_id, mathml, to_html
from gatescope_lessons.site.outputs import Widgets
from gatescope_lessons.site.pages import notebook_main

FIGURE = '{"data": [{"y": [1, 2], "name": "</script>"}], "layout": {"height": 300, "meta": {"alt_text": "two bars"}}}'


def model(name: str, **state: object) -> dict:
    return {"model_name": name, "model_module": "any", "state": state}


STATE = {
    "box": model("VBoxModel", children=["IPY_MODEL_slider", "IPY_MODEL_go", "IPY_MODEL_plot", "IPY_MODEL_note"]),
    "slider": model("IntSliderModel", description="Layer <b>", value=3, layout="IPY_MODEL_shown"),
    "go": model("ButtonModel", description="Run"),
    "plot": model("AnyModel", figure=FIGURE, _dom_classes=["gs-x-view"]),
    "note": model("HTMLModel", value="<b>answer</b>"),
    "choice": model("ToggleButtonsModel", description="Unit", _options_labels=["m", "cm"], index=None),
    "secret": model("HTMLModel", value="hidden", layout="IPY_MODEL_gone"),
    "gone": model("LayoutModel", display="none"),
    "shown": model("LayoutModel", display=None),
    "photo": {
        **model("ImageModel", format="png"),
        "buffers": [{"path": ["value"], "data": "aGk=\n", "encoding": "base64"}],
    },
}


def view(name: str) -> dict:
    return {
        "output_type": "display_data",
        "metadata": {},
        "data": {"application/vnd.jupyter.widget-view+json": {"model_id": name}},
    }


def notebook(*outputs: dict, tags: tuple[str, ...] = ()) -> nbformat.NotebookNode:
    cells = [
        nbformat.v4.new_markdown_cell(
            "# 1. Title\n\n40 minutes · beginner · solution edition ([exercises](../01_a.ipynb))"
        ),
        nbformat.v4.new_markdown_cell('## A part\n\n$x_i$ and [**sink**](../00_start.ipynb#Words "a < b")'),
        nbformat.v4.new_code_cell("profile = 'quick'", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("print(1)", outputs=list(outputs), metadata={"tags": list(tags)}),
    ]
    made = nbformat.v4.new_notebook(cells=cells)
    made.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": STATE}}
    return nbformat.from_dict(made)


def test_formulas_become_mathml_and_links_lead_to_pages() -> None:
    html = to_html(
        "## The *next* part\n\n$a_{i}$ and\n\n$$\n\\sum_j A_{ij} \\log A_{ij}\n$$\n\n"
        '[one](01_x.ipynb) [two](../02_y.ipynb#A-part "why") [three](solutions/03_z.ipynb)'
    )
    assert '<h2 id="The-next-part">' in html
    assert html.count("<math") == 2
    assert 'display="block"' in html
    assert "$" not in html
    assert re.findall(r'href="([^"]+)"', html) == ["01_x.html", "02_y.html#A-part", "03_z.html"]


def test_every_formula_of_every_lesson_becomes_mathml() -> None:
    for folder in own_shelf().folders():
        path = own_shelf().notebook(folder, "solution")
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                html = re.sub(r"<code>.*?</code>|<pre>.*?</pre>", "", to_html(cell.source), flags=re.DOTALL)
                assert "$" not in html, (folder, html[:200])
                assert "\\" not in html, (folder, html[:200])


def test_a_formula_that_cannot_be_converted_is_shown_as_written() -> None:
    assert "frac" in mathml(r"\frac{", "inline")


@pytest.mark.parametrize(("heading", "anchor"), [("Words", "Words"), ("What <code>k</code> does", "What-k-does")])
def test_anchors_are_those_of_jupyterlab(heading: str, anchor: str) -> None:
    assert heading_id(heading) == anchor


def test_widgets_show_what_they_last_showed() -> None:
    html, plots = notebook_main(notebook(view("box"), view("choice"), view("secret"), view("photo")))
    assert plots
    assert "Layer &lt;b&gt; <b>3</b>" in html
    assert "<b>answer</b>" in html
    assert "nothing chosen" in html
    assert "of: m, cm" in html
    assert 'src="data:image/png;base64,aGk="' in html
    assert 'aria-label="two bars"' in html
    assert "gs-x-view" in html
    for gone in ("Run", "hidden", "profile", "edition"):
        assert gone not in html
    # Text of a figure cannot end its script.
    assert html.count("</script>") == 1


def test_a_stream_is_escaped_and_html_is_kept() -> None:
    widgets = Widgets({})
    assert "&lt;b&gt;" in widgets.html({"output_type": "stream", "name": "stdout", "text": ["<b>"]})
    assert "<i>x</i>" in widgets.html({"output_type": "execute_result", "data": {"text/html": "<i>x</i>"}})
    table = '<thead><tr><th></th>\n<th class="level0"> </th><th>loss</th></tr></thead>'
    headed = widgets.html({"output_type": "execute_result", "data": {"text/html": table}})
    assert "<td></td>\n<td></td><th>loss</th>" in headed
    assert "&lt;y&gt;" in widgets.html({"output_type": "execute_result", "data": {"text/plain": "<y>"}})


def test_what_is_about_this_machine_stays_on_it() -> None:
    output = {"output_type": "stream", "name": "stdout", "text": "a path of this machine"}
    assert "a path" in notebook_main(notebook(output))[0]
    html, _ = notebook_main(notebook(output, tags=("local",)))
    assert "a path" not in html
    assert "print" in html


def test_a_failed_cell_makes_no_page(tmp_path) -> None:
    error = {"output_type": "error", "ename": "ValueError", "evalue": "burnt", "traceback": []}
    with pytest.raises(Refusal, match="ran to its end, got ValueError: burnt"):
        write_site(tmp_path, own_shelf(), {"l01_where_attention_goes": notebook(error)}, api=False)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def site(tmp_path) -> dict[str, str]:
    written = write_site(tmp_path, own_shelf(), {"l01_where_attention_goes": notebook(view("box"))}, api=False)
    return {path.relative_to(tmp_path).as_posix(): path.read_text(encoding="utf-8") for path in written}


def test_the_site_fetches_nothing_and_its_links_lead_somewhere(site) -> None:
    lessons = {f"{folder[1:]}.html" for folder in own_shelf().folders()}
    for name, html in site.items():
        if name.endswith(".js"):
            continue
        assert re.findall(r'(?:src|data)="(?!data:|assets/)([^"]+)"', html) == [], name
        assert "<link" not in html
        assert "@import" not in html
        for href in re.findall(r'<a href="([^"#]+)', html):
            assert href.startswith("https://") or href in site or href in lessons or "/" in href, (name, href)


def test_headings_step_down_one_level_at_a_time(site) -> None:
    for name, html in site.items():
        levels = [int(level) for level in re.findall(r"<h(\d)", html)] if name.endswith(".html") else [1]
        assert levels[0] == 1, name
        assert all(below <= above + 1 for above, below in pairwise(levels)), (name, levels)
