"""What a teacher needs of each lesson: timing, misconceptions, questions and answers, from its teaching.md."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gatescope.errors import Refusal

from gatescope_lessons.lesson_kit import Shelf, number

PARTS = ("Timing", "Misconceptions", "Ask", "Answers")
_MINUTES = re.compile(r"^\|[^|]+\|\s*(\d+)\s*\|", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Notes:
    """The notes of one lesson, as markdown without a title."""

    folder: str
    title: str
    text: str

    @property
    def minutes(self) -> int:
        """The sum of its timing."""
        return sum(map(int, _MINUTES.findall(self.part("Timing"))))

    def part(self, name: str) -> str:
        """What stands under one heading."""
        return self.text.split(f"## {name}\n", 1)[1].split("\n## ", 1)[0]

    def count(self, name: str) -> int:
        """Items of a numbered list under a heading."""
        return len(re.findall(r"^\d+\. ", self.part(name), re.MULTILINE))


def notes(shelf: Shelf, folder: str) -> Notes:
    """The notes of a lesson. Raises Refusal when there are none, or when a part is missing or out of order."""
    path = shelf.folder / folder / "teaching.md"
    if not path.is_file():
        raise Refusal(f"lessons/{folder}", "a teaching.md", "none", f"write it with {', '.join(PARTS)}")
    text = path.read_text(encoding="utf-8")
    if (found := tuple(re.findall(r"^## (.+)$", text, re.MULTILINE))) != PARTS:
        raise Refusal(f"{folder}/teaching.md", f"the headings {PARTS}", str(found), "bring them in this order")
    return Notes(folder, shelf.lesson(folder).title, text)


def handbook(shelf: Shelf) -> str:
    """The notes of all lessons as one markdown document."""
    parts = [
        "# For teachers\n\nFor every lesson: how its time divides, what learners believe before it, what to ask, and "
        "what a good answer holds. Predictions are noted and never graded; `gatescope progress --csv FILE` gives a "
        "table of exercises and predictions."
    ]
    for folder in shelf.folders():
        one = notes(shelf, folder)
        text = re.sub(r"^## ", "### ", one.text, flags=re.MULTILINE)
        parts.append(f"## {number(folder)}. {one.title}\n\n{text.strip()}")
    return "\n\n".join(parts) + "\n"
