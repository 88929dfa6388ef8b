"""explore: what is typed is measured, what is chosen is drawn."""

import json

import pytest
from gatescope import panels


@pytest.fixture
def panel(pretrained, of_text):
    return panels.explore(pretrained, "four", measure=of_text)


def drawn(panel, picture):
    return json.loads(panel._pictures[picture]._plot.figure)


def sink(panel):
    return panel.frame()["first_attention"].mean()


def test_a_longer_text_moves_the_map_in_the_direction_of_the_law(panel):
    assert sink(panel) == pytest.approx(0.04)
    panel.text.value = "twelve chars"
    assert sink(panel) == pytest.approx(0.12)
    assert "0.120" in drawn(panel, "sink_heatmap")["layout"]["title"]["text"]


def test_the_layer_is_drawn_from_the_record_without_another_run(panel, of_text):
    panel.layer.value = 1
    assert panel.frame("massive_3d").query("magnitude > 100")[["dim", "magnitude"]].values.tolist() == [[5, 500]]
    panel.layer.value = 2
    assert panel.frame("massive_3d").query("magnitude > 100")[["dim", "magnitude"]].values.tolist() == [[9, 700]]
    assert of_text.calls == 1
    panel.scale.value = "linear"
    assert drawn(panel, "massive_3d")["layout"]["scene"]["zaxis"]["type"] == "linear"


def test_the_plot_is_updated_in_place(panel):
    before = panel._pictures["sink_heatmap"]._plot
    panel.text.value = "other text"
    assert panel._pictures["sink_heatmap"]._plot is before
    assert "0.100" in drawn(panel, "sink_heatmap")["layout"]["title"]["text"]
    assert "0.100" in before.alt


def test_a_learner_keeps_the_camera(panel):
    revision = drawn(panel, "massive_3d")["layout"]["uirevision"]  # plotly keeps the camera while this stays
    panel.layer.value = 2
    assert drawn(panel, "massive_3d")["layout"]["uirevision"] == revision


def test_all_plots_share_one_copy_of_the_library(panel):
    plots = [panel._pictures[name]._plot for name in ("sink_heatmap", "massive_3d")]
    assert plots[0].library is plots[1].library
    assert "plotly.js v" in plots[0].library.source[:500]
    assert all(len(plot.figure) < 100_000 for plot in plots)


@pytest.mark.parametrize(("text", "words"), [("", "type a sentence"), ("crash", "RuntimeError: &lt;b&gt;burnt")])
def test_bad_text_is_told_and_the_panel_goes_on(panel, text, words):
    panel.text.value = text
    assert words in panel.error.value
    assert sink(panel) == pytest.approx(0.04)
    panel.text.value = "better"
    assert panel.message == ""
    assert sink(panel) == pytest.approx(0.06)


def test_run_tries_again(panel, of_text):
    panel.text.value = "crash"
    panel.run_button.click()
    assert "burnt" in panel.message


def test_token_text_is_escaped_in_the_table(panel):
    html = panel._pictures["massive_table"].widget.children[1].value
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_the_real_thing(pretrained):
    panel = panels.explore(pretrained, "the quick brown fox", max_tokens=30)
    assert panel.message == ""
    assert len(panel.frame()) == 6
    assert panel.record.attrs["T"] == 19
    assert panel.frame("massive_table")["times_median"].iloc[0] > 1
    before = sink(panel)
    panel.text.value = "ababababab"
    assert sink(panel) != before
    for bad, words in (("", "at least one word"), ("x", "at least 2 tokens"), ("y" * 31, "at most 30 tokens")):
        panel.text.value = bad
        assert words in panel.message
