"""Checks pass, wait or diagnose, and never raise for what a learner may write."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from gatescope.errors import Refusal
from gatescope_lessons import journal
from gatescope_lessons.compare import compare
from gatescope_lessons.exercises import Exercise, Result, exercise


def twice(answer):
    return compare(answer(3.0), 6.0)


def same(*answers):
    return None if answers == (6.0,) * len(answers) else "not six"


def make(check=twice, **fields):
    return Exercise("twice", check, **fields)


def blank_return(x):
    return ...


def blank_body(x): ...


def documented_blank(x):
    """Twice x."""


def blank_inside(x):
    scale = ...
    return scale * x


def blank_in_a_pair(x):
    return x, ...


@pytest.mark.parametrize(
    "answer", [..., blank_return, blank_body, documented_blank, blank_inside, blank_in_a_pair, [..., 1], {"a": ...}]
)
def test_a_blank_is_not_attempted(answer):
    result = make()(answer)
    assert result.status == "not attempted"
    assert not result
    assert not result.hint


@pytest.mark.parametrize("function", [documented_blank, blank_inside])
def test_a_kernel_that_holds_a_blank_is_not_attempted(function):
    class Kernel:  # as Triton wraps a function
        fn = staticmethod(function)

    assert make()(Kernel()).status == "not attempted"


def test_where_a_package_is_missing_the_learner_is_told_whatever_the_answer():
    for answer in (..., lambda x: 2 * x):
        result = make(needs="no_such_package")(answer)
        assert result.status == "cannot run here"
        assert "needs the package no_such_package" in result._repr_html_()
        assert not result
    assert make(needs="json")(lambda x: 2 * x).status == "passed"


def test_no_answer_at_all_is_not_attempted():
    assert make()().status == "not attempted"


def test_a_right_answer_passes_and_says_what_it_means():
    result = make(afterword="Twice is two times.")(lambda x: 2 * x)
    assert result
    assert str(result) == "passed: Twice is two times."


def test_several_answers_are_checked_together():
    assert make(same)(6.0, 6.0)
    assert make(same)(6.0, ...).status == "not attempted"


def test_wrong_attempts_climb_the_ladder_of_hints():
    check = make(hints=("Two of them.", "2 * x."))
    hints = [check(lambda x: x + 1).hint for _ in range(3)]
    assert hints == ["Two of them.", "2 * x.", "2 * x."]
    assert not check(lambda x: 2 * x).hint


def divides(x):
    zero = 0
    return x / zero


WRONG = {
    "raises": (divides, r"your code raised ZeroDivisionError: .*division by zero.*, at line \d+: return x / zero"),
    "wrong arguments": (lambda: 6.0, r"your code raised TypeError: .*when called as the exercise asks"),
    "no function": (6.0, r"cannot read your answer \(float\)"),
    "a class": (str, r"got a str"),
    "returns nothing": (lambda x: print(end=""), r"did you forget `return`"),
}


@pytest.mark.parametrize(("answer", "told"), WRONG.values(), ids=WRONG)
def test_what_goes_wrong_in_the_answer_is_told(answer, told):
    result = make()(answer)
    assert result.status == "not yet"

    assert re.search(told, result.detail), result.detail


def test_an_interrupt_is_not_swallowed():
    def stop(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make()(stop)


def test_a_check_that_returns_no_sentence_is_the_authors_error():
    with pytest.raises(Refusal, match="check of twice: wanted None or a sentence, got False"):
        make(lambda answer: False)(6.0)


def test_the_decorator_names_the_exercise_after_its_function():
    @exercise(hints=["Two."], afterword="Yes.")
    def double(answer):
        return None

    assert (double.name, double.hints, double.afterword) == ("double", ("Two.",), "Yes.")


def test_what_jupyter_shows_is_escaped():
    shown = Result("not yet", "got <img src=x onerror=alert(1)>", "use <b>\n& more", "not saved: <x>")._repr_html_()
    assert "<img" not in shown
    assert "&lt;img src=x onerror=alert(1)&gt;" in shown
    assert "use &lt;b&gt;<br>&amp; more" in shown
    assert "&lt;x&gt;" in shown


def test_outcomes_are_noted_in_memory_and_in_the_file(progress):
    before = len(journal.NOTES)
    check = make()
    check(...)
    check(lambda x: 2 * x)
    noted = journal.NOTES[before:]
    assert [note["status"] for note in noted] == ["not attempted", "passed"]
    lines = [json.loads(line) for line in progress.read_text().splitlines()]
    assert [(line["name"], line["status"]) for line in lines] == [("twice", "not attempted"), ("twice", "passed")]


def test_a_progress_file_that_cannot_be_written_is_said_and_not_fatal(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GATESCOPE_PROGRESS", str(tmp_path / "file" / "progress.jsonl"))
    result = make()(lambda x: 2 * x)
    assert result
    assert result.notice.startswith("progress not saved: ")
    assert result.notice in str(result)


def test_a_torn_line_is_left_out(tmp_path):
    path = tmp_path / "notes.jsonl"
    path.write_text('{"name": "a"}\n{"name": \n{"name": "b"}\n')
    assert [note["name"] for note in journal.read(path)] == ["a", "b"]
    assert journal.read(tmp_path / "missing") == []


def test_without_the_variable_progress_goes_to_the_learners_folder(checkout, monkeypatch):
    root: Path = checkout()
    monkeypatch.delenv("GATESCOPE_PROGRESS")
    assert journal.journal_path() == root / "work" / ".progress.jsonl"
