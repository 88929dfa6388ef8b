"""compare: a metric over variants."""

import numpy as np
import pytest
import xarray as xr
from gatescope import panels
from gatescope.errors import Refusal


@pytest.fixture
def record():
    heads = np.array([[[[0.1, 0.7]], [[0.3, 0.9]]], [[[0.1, 0.1]], [[0.2, 0.4]]]])
    return xr.Dataset(
        {
            "first_attention": (("variant", "seed", "layer", "head"), heads, {"long_name": "first-token attention"}),
            "nll": (("variant", "seed"), [[2.0, 2.2], [1.0, 1.2]], {"units": "nats"}),
            "gate_histogram": (("variant", "bin"), np.ones((2, 4))),
            "note": ("variant", ["a", "b"]),
        },
        coords={"variant": ["softmax", "<script>x</script>"], "seed": [0, 1]},
    )


@pytest.fixture
def panel(record):
    return panels.compare(record)


def means(panel):
    return panel.frame().drop_duplicates("variant")["mean"].tolist()


def test_the_reduction_changes_the_number_as_it_says(panel):
    assert means(panel) == pytest.approx([0.5, 0.2])
    panel.reduce.value = "max"
    assert means(panel) == pytest.approx([0.8, 0.25])
    panel.reduce.value = "min"
    assert means(panel) == pytest.approx([0.2, 0.15])


def test_the_metric_and_the_baseline_change_the_ratio(panel):
    panel.metric.value = "nll"
    assert panel.frame()["ratio"].iloc[-1] == pytest.approx(1.1 / 2.1)
    panel.baseline.value = "<script>x</script>"
    assert panel.frame()["ratio"].iloc[0] == pytest.approx(2.1 / 1.1)
    assert panel.frame("table").equals(panel.frame())


def test_only_numbers_along_variant_are_offered(panel):
    assert panel.metric.options == ("first_attention", "nll")


def test_names_are_escaped_in_the_table(panel):
    html = panel._pictures["table"].widget.children[1].value
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_reset_and_code(panel, record):
    panel.apply(metric="nll", reduce="max")
    other = panels.compare(record)
    eval(panel.code, {"panel": other})
    assert other.frame().equals(panel.frame())
    panel.reset()
    assert panel.state["metric"] == "first_attention"


def test_a_record_without_variants_is_refused(record):
    with pytest.raises(Refusal, match="along variant"):
        panels.compare(record.isel(variant=0))
    with pytest.raises(Refusal, match="metric"):
        panels.compare(record, "perplexity")
