"""What the journal says becomes what the learner has done; the map shows it and leads on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from gatescope.errors import Refusal
from gatescope_lessons import journal
from gatescope_lessons.course_map import course_map, places_of
from gatescope_lessons.lesson_kit import Lesson, own_shelf
from gatescope_lessons.progress import COMMAND, Item, Progress, next_lesson, progress

GOOD = {"title": "Why?", "minutes": 30, "difficulty": "beginner", "objectives": ("say why",)}


def note(*entries: tuple[str, str, str]) -> None:
    for kind, name, outcome in entries:
        journal.note(kind, name, **{"status" if kind == "exercise" else "guess": outcome})


def a_lesson(number: int, *after: int, status: str = "") -> Progress:
    item = Item(f"l{number:02d}_topic", "exercise", "answer", status, int(bool(status)))
    return Progress(f"l{number:02d}_topic", Lesson(**GOOD, after=after), (item,))


def test_every_exercise_and_prediction_of_every_lesson_is_found() -> None:
    for each in progress():
        text = own_shelf().source(each.folder).read_text(encoding="utf-8")
        assert each.count("exercise")[1] == text.count('tags=["exercise"]'), each.folder
        assert each.count("prediction")[1] == text.count("= predict("), each.folder


@pytest.mark.parametrize(
    ("entries", "passed", "made", "finished"),
    [
        ((), 0, 0, False),
        ((("exercise", "double", "not attempted"),), 0, 0, False),
        ((("exercise", "double", "cannot run here"),), 0, 0, False),
        ((("exercise", "double", "not yet"),), 0, 0, False),
        ((("exercise", "double", "passed"), ("exercise", "double", "not yet")), 1, 0, True),
        ((("prediction", "twice", "5"),), 0, 1, False),
        ((("exercise", "another", "passed"),), 0, 0, False),
    ],
)
def test_the_journal_is_read(demo, entries, passed, made, finished) -> None:
    note(*entries)
    [found] = progress(demo.shelf)
    assert found.count("exercise") == (passed, 1)
    assert found.count("prediction") == (made, 1)
    assert found.finished == finished
    untried = ("not attempted", "cannot run here")
    assert found.begun == any(outcome not in untried and name != "another" for _, name, outcome in entries)


def test_an_exercise_notes_its_lesson(demo) -> None:
    from importlib import import_module

    checks = import_module(f"{demo.shelf.package}.l01_demo.checks")
    checks.double(lambda x: 2 * x)
    assert journal.NOTES[-1]["lesson"] == "l01_demo"
    assert progress(demo.shelf)[0].finished


def test_a_note_of_another_lesson_does_not_count(demo) -> None:
    journal.note("exercise", "double", lesson="l02_other", status="passed")
    assert not progress(demo.shelf)[0].begun


def test_the_last_guess_and_the_times_are_kept(demo, progress: Path) -> None:
    from gatescope_lessons.progress import progress as read

    lines = [
        {"kind": "prediction", "name": "twice", "guess": guess, "at": at} for guess, at in (("5", "a"), ("6", "b"))
    ]
    progress.write_text("\n".join(json.dumps(line) for line in lines) + "\n{torn", encoding="utf-8")
    item = next(item for item in read(demo.shelf)[0].items if item.kind == "prediction")
    assert (item.outcome, item.attempts, item.first, item.last) == ("6", 2, "a", "b")


@pytest.mark.parametrize(
    ("statuses", "leads_to"),
    [
        (("", "", ""), 1),
        (("passed", "", ""), 2),
        (("", "", "not yet"), 3),
        (("passed", "passed", ""), 3),
        (("passed", "passed", "passed"), None),
    ],
)
def test_the_way_on(statuses, leads_to) -> None:
    first, second, third = statuses
    found = [a_lesson(1, status=first), a_lesson(2, 1, status=second), a_lesson(3, 1, status=third)]
    goal = next_lesson(found)
    assert (goal and int(goal.folder[1:3])) == leads_to


def test_lessons_stand_right_of_what_they_build_on_and_never_on_each_other() -> None:
    after = {1: [], 2: [1], 3: [2, 8], 4: [1], 8: [], 9: [8], 12: [9, 2]}
    places = places_of(after)
    assert len(set(places.values())) == len(after)
    assert all(places[n][0] > places[parent][0] for n, parents in after.items() for parent in parents)
    assert places[1] == (0, 0)
    assert places[2][1] == places[1][1]


@pytest.mark.parametrize(("after", "told"), [({1: [2], 2: [1]}, "without a circle"), ({1: [5]}, "05 in 01")])
def test_what_cannot_be_laid_out_is_refused(after, told) -> None:
    with pytest.raises(Refusal, match=told):
        places_of(after)


def test_the_map_links_every_lesson_escapes_titles_and_says_where_to_go() -> None:
    found = [a_lesson(1, status="passed"), a_lesson(2, 1)]
    object.__setattr__(found[1].lesson, "title", "<b>bold</b> & more")
    view = course_map(found=found)
    assert view.html.count("gs-course-card") == 2
    assert 'href="01_topic.ipynb"' in view.html
    assert "✔ finished: 1 of 1 exercises" in view.html
    assert "&lt;b&gt;bold" in view.html
    assert "<b>bold" not in view.html
    assert view.alt_text == "Map of 2 lessons, 1 finished. Go on here: 2. <b>bold</b> & more"


def test_the_map_of_this_shelf_stands() -> None:
    assert course_map().html.count("gs-course-card") == len(own_shelf().folders()) - 1


def test_the_command_prints_and_writes_csv(tmp_path, capsys) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    COMMAND.configure(parser)
    note(("prediction", "l00-nothing-found", 'a "quoted", guess'))
    assert COMMAND.run(parser.parse_args(["--csv", str(tmp_path / "class" / "me.csv")])) == 0
    assert "1 of 1 predictions   begun" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "class" / "me.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["outcome"] for row in rows if row["name"] == "l00-nothing-found"] == ['a "quoted", guess']
    with pytest.raises(Refusal, match="which is no file"):
        COMMAND.run(parser.parse_args(["--journal", str(tmp_path / "nobody.jsonl")]))
