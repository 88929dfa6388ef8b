"""Lesson metadata refuses what a learner could not use; a shelf finds a lesson by any of its names."""

from __future__ import annotations

import pytest
from gatescope.errors import Refusal
from gatescope_lessons.lesson_kit import Lesson, number

GOOD = {"title": "Why?", "minutes": 30, "difficulty": "beginner", "objectives": ("say why",)}

BAD = {
    "no title": ({"title": " "}, "a title"),
    "too short": ({"minutes": 3}, "5 to 60 minutes"),
    "too long": ({"minutes": 90}, "5 to 60 minutes"),
    "difficulty": ({"difficulty": "easy"}, "beginner, intermediate, advanced"),
    "no objectives": ({"objectives": ()}, "at least one objective"),
    "objectives without a comma": ({"objectives": ("say why")}, "objectives as a tuple"),
    "prerequisites without a comma": ({"prerequisites": ("counting")}, "prerequisites as a tuple"),
    "a control without a view": ({"main_control": "gs-slider"}, "main_control and main_view together"),
}


@pytest.mark.parametrize(("change", "told"), BAD.values(), ids=BAD)
def test_bad_metadata_is_refused(change, told):
    with pytest.raises(Refusal, match=told):
        Lesson(**GOOD | change)


@pytest.mark.parametrize("name", ["l01_demo", "01_demo", "01_demo.ipynb", "l01", "01", "1"])
def test_a_lesson_is_found_by_any_of_its_names(demo, name):
    assert demo.shelf.find(name) == "l01_demo"


@pytest.mark.parametrize("name", ["2", "demo", "", "l1"])
def test_an_unknown_lesson_is_refused_with_the_known_ones(demo, name):
    with pytest.raises(Refusal, match=r"one of the lessons \(l01_demo\)"):
        demo.shelf.find(name)


def test_folders_that_hold_no_python_are_no_lessons(demo):
    (demo.shelf.folder / "l09_left" / "__pycache__").mkdir(parents=True)
    assert demo.shelf.folders() == ["l01_demo"]


def test_a_name_without_a_number_is_refused():
    with pytest.raises(Refusal, match="lNN_topic"):
        number("lesson_one")
