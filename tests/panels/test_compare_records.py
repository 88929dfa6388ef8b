"""compare_records: every variable along every choice of dims, numbers as in the records."""

from __future__ import annotations

import numpy as np
import pytest
from gatescope import panels, records
from gatescope.errors import Refusal
from gatescope.probes import Massive, Sinks

OF = {quantity.name: quantity for kind in (Sinks, Massive) for quantity in kind.quantities}


def record(shift, names=("first_attention", "key_mass", "magnitude_max", "m_act")):
    values = {
        "first_attention": np.array([[0.1, 0.2], [0.3 + shift, 0.4]]),
        "key_mass": np.linspace(0, 1, 24).reshape(2, 2, 6),
        "magnitude_max": np.array([1.0, 2.0 + shift]),
        "m_act": 3.0 + shift,
    }
    return records.new({name: OF[name].variable(values[name]) for name in names})


@pytest.fixture
def panel():
    return panels.compare_records(record(0.0), record(0.5), ("<b>one</b>", "two"))


def test_every_setting_is_drawn(panel):
    seen = 0
    for metric in panel.metric.options:
        panel.metric.value = metric
        for _, along in panel.along.options:
            panel.along.value = along
            assert panel.message == ""
            assert list(panel.frame())[: len(along)] == list(along)
            seen += 1
    assert seen == 3 + 6 + 1 + 1


def test_the_numbers_are_those_of_the_records(panel):
    panel.apply(metric="first_attention", along=("layer", "head"))
    assert panel.frame()["difference"].tolist() == pytest.approx([0, 0, 0.5, 0])
    panel.along.value = ("layer",)
    assert panel.frame()["b"].tolist() == pytest.approx([0.15, 0.6])
    assert set(panel.frame("differences")["variable"]) == set(panel.metric.options)


def test_another_variable_redraws_once_and_reset_goes_back(panel):
    first = panel.state
    calls = []
    draw = panel.draw
    panel.draw = lambda state: (calls.append(state), draw(state))[1]
    panel.metric.value = "m_act" if first["metric"] != "m_act" else "magnitude_max"
    assert len(calls) == 1
    panel.reset()
    assert panel.state == first
    assert panel.message == ""


def test_the_table_has_room_for_what_it_shows(panel):
    shown = panel._pictures["differences"]._still.value
    assert shown.count("<th") == 7
    assert "there_a" not in shown
    assert "there_a" in panel.frame("differences")


def test_labels_are_escaped(panel):
    shown = panel._pictures["differences"]._still.value
    assert "&lt;b&gt;one" in shown
    assert "<b>one" not in shown


def test_records_without_a_common_variable_are_refused():
    with pytest.raises(Refusal, match="a variable in common"):
        panels.compare_records(record(0.0, ("m_act",)), record(0.0, ("key_mass",)))
