"""`gatescope build`: every lesson.py to its two notebooks, or what is out of step."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from gatescope.errors import Refusal
from gatescope.paths import atomic_write
from gatescope_kernels.command import Command

from gatescope_lessons.editions import notebook_text
from gatescope_lessons.lesson_kit import EDITIONS, Shelf, own_shelf


def built(shelf: Shelf, folder: str) -> dict[Path, str]:
    """The notebooks of one lesson: path -> text. Raises Refusal when the lesson cannot be built."""
    source = shelf.source(folder)
    if not source.is_file():
        raise Refusal(f"lessons/{folder}", "a lesson.py", "none", "write it, or move the folder away")
    lesson, text = shelf.lesson(folder), source.read_text(encoding="utf-8")
    return {shelf.notebook(folder, edition): notebook_text(folder, lesson, text, edition) for edition in EDITIONS}


def check(shelf: Shelf | None = None, folders: Sequence[str] | None = None) -> list[str]:
    """What is wrong with the shelf, one sentence each; empty when every lesson is built and nothing else lies there.

    With ``folders`` only these lessons are looked at.
    """
    shelf = shelf or own_shelf()
    problems: list[str] = []
    enrolled: set[Path] = set()
    for folder in shelf.folders() if folders is None else folders:
        enrolled |= {shelf.notebook(folder, edition) for edition in EDITIONS}
        try:
            wanted = built(shelf, folder)
        except Refusal as refusal:
            problems.append(str(refusal))
            continue
        problems += [
            f"{_shown(shelf, path)}: {difference}; run `gatescope build` to bring it in step with {folder}/lesson.py"
            for path, text in wanted.items()
            if (difference := _difference(path, text))
        ]
    if folders is not None:
        return problems
    return problems + [
        f"{_shown(shelf, path)}: no lesson folder builds this notebook; add its folder or delete it"
        for path in _notebooks(shelf)
        if path not in enrolled
    ]


def write(shelf: Shelf | None = None, folders: Sequence[str] | None = None) -> list[Path]:
    """Bring every notebook in step with its lesson, or those of ``folders``; returns what changed.

    Raises Refusal before writing anything.
    """
    shelf = shelf or own_shelf()
    chosen = shelf.folders() if folders is None else folders
    wanted = {path: text for folder in chosen for path, text in built(shelf, folder).items()}
    changed = [path for path, text in wanted.items() if _difference(path, text)]
    for path in changed:
        with atomic_write(path) as temporary:
            temporary.write_text(wanted[path], encoding="utf-8")
    return changed


def _notebooks(shelf: Shelf) -> list[Path]:
    return sorted([*shelf.notebooks.glob("*.ipynb"), *(shelf.notebooks / "solutions").glob("*.ipynb")])


def _shown(shelf: Shelf, path: Path) -> str:
    return path.relative_to(shelf.notebooks.parent).as_posix()


def _difference(path: Path, wanted: str) -> str:
    """How the file differs from what it should hold, or the empty string."""
    if not path.is_file():
        return "missing"
    found = path.read_text(encoding="utf-8")
    if found == wanted:
        return ""
    try:
        cells = [cell["source"] for cell in json.loads(found)["cells"]]
    except (json.JSONDecodeError, KeyError, TypeError):
        return "not a notebook"
    pairs = zip(cells, (cell["source"] for cell in json.loads(wanted)["cells"]), strict=False)
    first = next((index for index, (old, new) in enumerate(pairs, start=1) if old != new), None)
    if first is None:
        return "outputs, metadata or the number of cells differ"
    return f"differs from cell {first} on"


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument("lessons", nargs="*", metavar="LESSON", help="folder or number; all when none is given")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when something is out of step")


def _run(arguments: Namespace) -> int:
    shelf = own_shelf()
    folders = [shelf.find(name) for name in arguments.lessons] or None
    if not arguments.check:
        for path in write(shelf, folders):
            print(f"built {_shown(shelf, path)}")
    problems = check(shelf, folders)
    print("\n".join(problems) or f"{len(folders or shelf.folders())} lessons, both editions in step")
    return 1 if problems else 0


COMMAND = Command("build the notebooks from the lessons", _configure, _run)
