"""What a lesson is, and the shelf it stands on."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args

from gatescope.errors import Refusal
from gatescope.paths import repo_root

Edition = Literal["exercise", "solution"]
EDITIONS: tuple[Edition, ...] = get_args(Edition)
DIFFICULTIES = ("beginner", "intermediate", "advanced")
_FOLDER = re.compile(r"l(\d\d)_([a-z0-9_]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What a learner is told before starting; every lesson's head is built from it.

    title          a question or a finding, without a number
    minutes        time a person needs, 5 to 60
    difficulty     beginner, intermediate or advanced
    prerequisites  what the learner should know or have done, in sentences; may be empty
    after          numbers of the lessons that this one builds on, the nearest first
    objectives     what the learner can do afterwards; each completes "Afterwards you can"
    main_control   CSS class of the widget that the lesson turns on; the browser test moves it
    main_view      CSS class of the figure or text that must answer

    Raises Refusal for an empty title, no objectives, or values outside these lists.
    """

    title: str
    minutes: int
    difficulty: str
    objectives: Sequence[str]
    prerequisites: Sequence[str] = ()
    after: Sequence[int] = ()
    main_control: str | None = None
    main_view: str | None = None

    def __post_init__(self) -> None:
        if not self.title.strip():
            raise Refusal("Lesson", "a title", repr(self.title), "name the question the lesson answers")
        if not 5 <= self.minutes <= 60:
            raise Refusal("Lesson", "5 to 60 minutes", str(self.minutes), "split a longer lesson in two")
        if self.difficulty not in DIFFICULTIES:
            wanted = ", ".join(DIFFICULTIES)
            raise Refusal("Lesson", f"difficulty in {wanted}", repr(self.difficulty), "choose one of them")
        for field in ("objectives", "prerequisites"):
            if isinstance(getattr(self, field), str):
                raise Refusal("Lesson", f"{field} as a tuple", "a string", "write (text,) with the comma")
        if not self.objectives:
            raise Refusal("Lesson", "at least one objective", "none", "say what the learner can do afterwards")
        if (self.main_control is None) != (self.main_view is None):
            raise Refusal(
                "Lesson",
                "main_control and main_view together, or neither",
                f"main_control={self.main_control!r}, main_view={self.main_view!r}",
                "name the control and the view that answers to it",
            )


@dataclass(frozen=True, slots=True)
class Shelf:
    """A set of lessons: the package they are folders of, and the notebooks built from them.

    package    import name of the package
    folder     where that package lies
    notebooks  where its exercise editions lie; ``solutions/`` inside it holds the solution editions
    """

    package: str
    folder: Path
    notebooks: Path

    def folders(self) -> list[str]:
        """The lesson folders in order. A folder without a Python file is none: git leaves caches of other branches."""
        found = (path for path in self.folder.iterdir() if _FOLDER.fullmatch(path.name) and any(path.glob("*.py")))
        return sorted(path.name for path in found)

    def find(self, name: str) -> str:
        """The folder that ``name`` means: the folder itself, its notebook's name, or its number. Raises Refusal."""
        folders = self.folders()
        means = {
            alias: folder
            for folder in folders
            for alias in (folder, folder[1:], f"{folder[1:]}.ipynb", folder[:3], folder[1:3], str(number(folder)))
        }
        if name not in means:
            known = ", ".join(folders) or "none yet"
            raise Refusal("lessons", f"one of the lessons ({known})", repr(name), "give a folder name or its number")
        return means[name]

    def source(self, folder: str) -> Path:
        """The lesson.py of a lesson."""
        return self.folder / folder / "lesson.py"

    def notebook(self, folder: str, edition: Edition) -> Path:
        """Where an edition of a lesson is built to."""
        place = self.notebooks if edition == "exercise" else self.notebooks / "solutions"
        return place / f"{folder[1:]}.ipynb"

    def lesson(self, folder: str) -> Lesson:
        """The metadata a lesson's ``__init__.py`` declares as LESSON. Raises Refusal when it declares none."""
        declared = getattr(importlib.import_module(f"{self.package}.{folder}"), "LESSON", None)
        if not isinstance(declared, Lesson):
            got = "no LESSON" if declared is None else f"a {type(declared).__name__}"
            raise Refusal(f"{folder}/__init__.py", "LESSON = Lesson(...)", got, "declare it with lesson_kit.Lesson")
        return declared

    def lab(self, folder: str) -> ModuleType | None:
        """The lab module of a lesson, or None when it has no lab.py."""
        if not (self.folder / folder / "lab.py").is_file():
            return None
        return importlib.import_module(f"{self.package}.{folder}.lab")


def number(folder: str) -> int:
    """The NN of ``lNN_topic``. Raises Refusal for another name."""
    match = _FOLDER.fullmatch(folder)
    if match is None:
        raise Refusal("lessons", "a folder named lNN_topic", repr(folder), "rename it, for instance l03_routing")
    return int(match.group(1))


def own_shelf() -> Shelf:
    """The lessons of this project."""
    return Shelf("gatescope_lessons", Path(__file__).parent, repo_root() / "notebooks")
