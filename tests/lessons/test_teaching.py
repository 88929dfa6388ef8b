"""Every lesson has notes for its teacher, whole, and in step with its time."""

from __future__ import annotations

import pytest
from gatescope.errors import Refusal
from gatescope_lessons.lesson_kit import own_shelf
from gatescope_lessons.teaching import PARTS, handbook, notes

TIMING = "## Timing\n\n| part | minutes |\n|---|---|\n| all | 20 |\n\n"
GOOD = TIMING + "## Misconceptions\n\n- x\n\n## Ask\n\n1. a\n\n## Answers\n\n1. b\n"


@pytest.mark.parametrize("folder", own_shelf().folders())
def test_notes_are_whole_and_take_the_time_of_the_lesson(folder: str) -> None:
    found = notes(own_shelf(), folder)
    assert found.minutes == own_shelf().lesson(folder).minutes
    assert found.count("Ask") == found.count("Answers") >= 2
    assert found.part("Misconceptions").count("\n- *") >= 2


@pytest.mark.parametrize(
    ("text", "told"),
    [(None, "a teaching.md, got none"), (GOOD.replace("## Ask", "## Asked"), "the headings"), ("# T\n" + GOOD, None)],
)
def test_notes_that_are_missing_or_incomplete_are_refused(demo, text, told) -> None:
    if text is not None:
        demo.write("teaching.md", text)
    if told is None:
        assert notes(demo.shelf, "l01_demo").minutes == 20
        return
    with pytest.raises(Refusal, match=told):
        notes(demo.shelf, "l01_demo")


def test_the_handbook_has_every_lesson_one_level_down(demo) -> None:
    demo.write("teaching.md", GOOD)
    book = handbook(demo.shelf)
    assert "## 1. How much is twice?\n\n### Timing" in book
    assert [part for part in PARTS if f"### {part}" not in book] == []
