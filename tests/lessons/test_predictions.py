"""A guess is noted before the answer is shown."""

from __future__ import annotations

import json

import pytest
from gatescope.errors import Refusal
from gatescope_lessons.predictions import predict

OPTIONS = ("about 1/T", "a tenth", "more than a <third>")


@pytest.fixture
def make(monkeypatch):
    monkeypatch.delenv("GATESCOPE_EDITION", raising=False)
    return lambda **fields: predict("first", "How much goes to token 0?", OPTIONS, **fields)


def test_nothing_is_guessed_until_a_button_is_pressed(make, progress):
    prediction = make()
    assert prediction.value is None
    assert not progress.exists()
    assert "You made no prediction" in prediction.reveal(OPTIONS[0]).value


def test_a_press_is_noted(make, progress):
    prediction = make()
    prediction.buttons.value = OPTIONS[1]
    (note,) = map(json.loads, progress.read_text().splitlines())
    assert (note["kind"], note["name"], note["guess"]) == ("prediction", "first", OPTIONS[1])


def test_a_guess_outlives_its_kernel(make, progress):
    make().buttons.value = OPTIONS[1]
    lines = progress.read_text()
    again = make()
    assert again.value == OPTIONS[1]
    assert progress.read_text() == lines, "what was noted is not noted twice"
    assert "Your earlier guess" in again.panel.children[-1].value
    again.buttons.value = OPTIONS[0]
    assert make().value == OPTIONS[0]


def test_a_guess_that_is_no_option_any_more_is_forgotten(make, progress):
    progress.write_text(json.dumps({"kind": "prediction", "name": "first", "guess": "another"}) + "\n")
    assert make().value is None


def test_the_answer_is_compared_with_the_guess_and_escaped(make):
    prediction = make()
    prediction.buttons.value = OPTIONS[2]
    assert "and so it is" in prediction.reveal(OPTIONS[2]).value
    assert "<third>" not in prediction.reveal(OPTIONS[2]).value
    told = prediction.reveal(OPTIONS[0], "Measured on <s>.").value
    assert "You predicted more than a &lt;third&gt;. Measured: <b>about 1/T</b>. Measured on &lt;s&gt;." in told


def test_a_headless_run_presses_a_button(make, monkeypatch):
    monkeypatch.setenv("GATESCOPE_EDITION", "exercise")
    assert make().value == OPTIONS[0]
    assert make(headless=OPTIONS[2]).value == OPTIONS[2]


def test_jupyter_shows_the_panel(make):
    prediction = make()
    assert prediction._repr_mimebundle_()[0 if isinstance(prediction._repr_mimebundle_(), tuple) else "text/plain"]
    assert "How much goes to token 0?" in prediction.panel.children[0].value


@pytest.mark.parametrize(
    ("options", "headless", "told"),
    [(("a",), None, "two or more"), (("a", "a"), None, "two or more"), (("a", "b"), "c", "headless in")],
)
def test_bad_options_are_refused(options, headless, told):
    with pytest.raises(Refusal, match=told):
        predict("first", "?", options, headless=headless)


def test_only_an_option_can_be_revealed(make):
    with pytest.raises(Refusal, match="reveal an option"):
        make().reveal("something else")
