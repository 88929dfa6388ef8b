"""intervene: the loss without, with, and with the controls."""

import numpy as np
import pytest
from gatescope import panels
from gatescope.errors import Refusal
from gatescope.interventions.base import Draw


def fake(text, change):
    """Loss 1 a token; zeroing a dim adds its number / 100, a control 0.01; a window adds 1 / (window + 100 sinks)."""
    loss = np.ones(len(text) - 1)
    if change is None:
        return list(text), loss
    if change.name == "zero_dims":
        loss += 0.01 if isinstance(change.dims, Draw) else sum(change.dims) / 100
    elif change.name == "window_with_sinks":
        loss += 1 / (change.window + 100 * change.sink_tokens)
    elif change.name == "mask_keys":
        loss[0] += 5
    return list(text), loss


@pytest.fixture
def panel(pretrained):
    return panels.intervene(pretrained, "abcdef", measure=fake)


def bars(panel):
    return dict(zip(panel.frame()["setting"], panel.frame()["nll"], strict=True))


def test_without_an_intervention_there_is_one_bar_and_the_loss_of_each_token(panel):
    assert bars(panel) == {"without": 1.0}
    assert panel.frame("token_strip")["nll_token"].tolist() == [1.0] * 5
    assert panel.frame("token_strip")["piece"].tolist() == list("bcdef")


def test_zeroing_a_larger_dim_costs_more_and_controls_stay(panel):
    panel.apply(kind="zero dims", dims="5")
    assert bars(panel) == pytest.approx(
        {"without": 1, "zero dims": 1.05, "random control 0": 1.01, "random control 1": 1.01}
    )
    panel.dims.value = "5, 10"
    assert bars(panel)["zero dims"] == pytest.approx(1.15)
    assert panel.frame("token_strip")["nll_change"].tolist() == pytest.approx([0.15] * 5)


def test_the_number_of_controls_is_the_learners(panel):
    panel.apply(kind="mask the first key", controls=4)
    assert sum(kind == "control" for kind in panel.frame()["kind"]) == 4
    assert panel.frame("token_strip")["nll_change"].tolist() == [5, 0, 0, 0, 0]


def test_a_wider_window_and_a_sink_token_lower_the_loss(panel):
    panel.apply(kind="sliding window", window=2)
    narrow = bars(panel)["sliding window"]
    assert len(bars(panel)) == 2
    panel.window.value = 8
    wide = bars(panel)["sliding window"]
    panel.sink_tokens.value = 1
    assert narrow > wide > bars(panel)["sliding window"]
    assert bars(panel)["control: wider window"] == pytest.approx(1 + 1 / 9)


@pytest.mark.parametrize("dims", ["", "five", "1.5", "-3", "4,4"])
def test_dims_that_are_no_dims_are_told(panel, dims):
    panel.apply(kind="zero dims", dims=dims)
    assert panel.message
    panel.dims.value = "3"
    assert panel.message == ""


def test_only_the_controls_that_matter_are_shown(panel):
    panel.apply(kind="sliding window")
    hidden = {name for name, control in panel._controls.items() if control.layout.display == "none"}
    assert hidden == {"dims", "after_layer", "at", "limit"}


def test_reset_goes_back_to_the_first_settings(pretrained):
    panel = panels.intervene(pretrained, "abcdef", measure=fake, kind="zero dims", dims="5")
    panel.kind.value = "none"
    panel.reset()
    assert panel.state["kind"] == "zero dims"
    assert bars(panel)["zero dims"] == pytest.approx(1.05)
    with pytest.raises(Refusal, match="colour"):
        panels.intervene(pretrained, "abcdef", measure=fake, colour="red")


def test_the_code_restores_the_settings(panel, pretrained):
    panel.apply(kind="zero dims", dims="7", at="first token", controls=1)
    other = panels.intervene(pretrained, "another", measure=fake)
    eval(panel.code, {"panel": other})
    assert other.state == panel.state
    assert other.frame().equals(panel.frame())


@pytest.mark.parametrize(
    ("settings", "runs"),
    [
        ({"kind": "none"}, 1),
        ({"kind": "zero dims", "dims": "3", "after_layer": 0}, 4),
        ({"kind": "clamp dims", "dims": "3", "limit": 0.1, "at": "first token"}, 4),
        ({"kind": "mask the first key"}, 4),
        ({"kind": "sliding window", "window": 2, "sink_tokens": 0}, 2),
        ({"kind": "sliding window", "window": 2, "sink_tokens": 1}, 3),
    ],
)
def test_the_real_thing(pretrained, settings, runs):
    panel = panels.intervene(pretrained, "the quick brown fox", **settings)
    assert panel.message == ""
    assert len(panel.frame()) == runs
    assert len(panel.frame("token_strip")) == 18
    values = panel.frame()["nll"]
    assert values.nunique() == runs, "every setting changes this model"
    panel.text.value = ""
    assert "at least one word" in panel.message


def test_a_dim_beyond_the_model_is_told(pretrained):
    panel = panels.intervene(pretrained, "the quick", kind="zero dims", dims="99")
    assert "dims below 16" in panel.message
