"""How far the learner is: `gatescope progress`, and what the start page shows.

Outcomes come from the journal; what there is to do is read from the lessons' sources, so no lesson is imported.
"""

from __future__ import annotations

import ast
import csv
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gatescope.errors import Refusal
from gatescope.paths import atomic_write
from gatescope_kernels.command import Command

from gatescope_lessons import journal
from gatescope_lessons.lesson_kit import Lesson, Shelf, number, own_shelf

_COLUMNS = ("lesson", "kind", "name", "outcome", "attempts", "first", "last")


@dataclass(frozen=True, slots=True)
class Item:
    """An exercise or a prediction, and what became of it.

    kind      "exercise" or "prediction"
    outcome   of an exercise "passed" (once is enough) or "not yet"; of a prediction the guess; empty: not begun
    attempts  wrong and right answers, or guesses
    first     time of the first attempt (ISO 8601, UTC), empty without one; ``last`` of the last one
    """

    lesson: str
    kind: str
    name: str
    outcome: str = ""
    attempts: int = 0
    first: str = ""
    last: str = ""

    @property
    def done(self) -> bool:
        """Whether the exercise is passed, or the prediction made."""
        return self.outcome == "passed" if self.kind == "exercise" else bool(self.outcome)


@dataclass(frozen=True, slots=True)
class Progress:
    """All there is to do in one lesson."""

    folder: str
    lesson: Lesson
    items: tuple[Item, ...]

    @property
    def begun(self) -> bool:
        """Anything was tried."""
        return any(item.attempts for item in self.items)

    def count(self, kind: str) -> tuple[int, int]:
        """How many of a kind are done, and how many there are."""
        found = [item for item in self.items if item.kind == kind]
        return sum(item.done for item in found), len(found)

    @property
    def finished(self) -> bool:
        """Every exercise is passed. A prediction cannot be failed, so none is asked for."""
        done, all_ = self.count("exercise")
        return done == all_ > 0


def progress(shelf: Shelf | None = None, path: Path | None = None) -> list[Progress]:
    """Every lesson of the shelf with what the journal at ``path`` (by default the learner's) says of it."""
    shelf = shelf or own_shelf()
    notes = journal.read(journal.journal_path() if path is None else path)
    todo = {folder: list(_todo(shelf.folder / folder)) for folder in shelf.folders()}
    owners: dict[tuple[str, str], list[str]] = {}
    for folder, items in todo.items():
        for item in items:
            owners.setdefault(item, []).append(folder)
    attempts: dict[tuple[str, str, str], list[dict[str, object]]] = {}
    for entry in notes:
        key = (str(entry.get("kind")), str(entry.get("name")))
        lessons = [entry["lesson"]] if "lesson" in entry else owners.get(key, [])
        if len(lessons) == 1 and entry.get("status") not in ("not attempted", "cannot run here"):
            attempts.setdefault((str(lessons[0]), *key), []).append(entry)
    return [
        Progress(
            folder,
            shelf.lesson(folder),
            tuple(_item(folder, kind, name, attempts.get((folder, kind, name), [])) for kind, name in items),
        )
        for folder, items in todo.items()
    ]


def next_lesson(found: Sequence[Progress]) -> Progress | None:
    """Where to go on: a begun lesson, else the first whose ground is laid; None when all is finished."""
    finished = {number(p.folder) for p in found if p.finished}
    begun = [p for p in found if p.begun and not p.finished]
    ready = [p for p in found if not p.finished and set(p.lesson.after) <= finished]
    return next(iter([*begun, *ready, *(p for p in found if not p.finished)]), None)


def _item(folder: str, kind: str, name: str, entries: list[dict[str, object]]) -> Item:
    if not entries:
        return Item(folder, kind, name)
    outcomes = [str(entry.get("status" if kind == "exercise" else "guess", "")) for entry in entries]
    outcome = "passed" if "passed" in outcomes and kind == "exercise" else outcomes[-1]
    first, last = (str(entry.get("at", "")) for entry in (entries[0], entries[-1]))
    return Item(folder, kind, name, outcome, len(entries), first, last)


def _todo(folder: Path) -> Iterator[tuple[str, str]]:
    """(kind, name) of all that lesson.py asks, in its order."""
    checks = _exercises(folder / "checks.py")
    seen: set[tuple[str, str]] = set()
    for node in _calls(folder / "lesson.py"):
        found = _asked(node, checks)
        if found and found not in seen:
            seen.add(found)
            yield found


def _exercises(path: Path) -> set[str]:
    return {
        node.name
        for node in _parsed(path).body
        if isinstance(node, ast.FunctionDef)
        for mark in node.decorator_list
        if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "exercise"
    }


def _calls(path: Path) -> list[ast.Call]:
    found = [node for node in ast.walk(_parsed(path)) if isinstance(node, ast.Call)]
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])


def _asked(node: ast.Call, checks: set[str]) -> tuple[str, str] | None:
    match node.func, node.args:
        case ast.Name(id="predict"), [ast.Constant(value=str(name)), *_]:
            return "prediction", name
        case ast.Attribute(value=ast.Name(id="checks"), attr=name), _ if name in checks:
            return "exercise", name
    return None


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument("--journal", type=Path, metavar="FILE", help="a progress file; by default this learner's")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write every exercise and prediction there")


def _run(arguments: Namespace) -> int:
    if arguments.journal and not arguments.journal.is_file():
        wanted = "--journal, a progress file (work/.progress.jsonl of a learner)"
        raise Refusal("progress", wanted, f"{arguments.journal}, which is no file", "check the path")
    found = progress(path=arguments.journal)
    for each in found:
        (passed, exercises), (made, predictions) = each.count("exercise"), each.count("prediction")
        mark = "finished" if each.finished else "begun" if each.begun else ""
        print(f"{each.folder:<34}{passed:>3} of {exercises} exercises{made:>5} of {predictions} predictions   {mark}")
    if arguments.csv:
        with atomic_write(arguments.csv) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(_COLUMNS)
            writer.writerows([getattr(item, name) for name in _COLUMNS] for each in found for item in each.items)
        print(f"written: {arguments.csv}")
    return 0


COMMAND = Command("how far the learner is, lesson by lesson", _configure, _run)
