"""A shelf of one small lesson in a temporary folder, and the pieces tests change on it."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from gatescope_lessons import build
from gatescope_lessons.lesson_kit import Shelf

INIT = """
from gatescope_lessons.lesson_kit import Lesson

LESSON = Lesson(
    title="How much is twice?",
    minutes=20,
    difficulty="beginner",
    prerequisites=("You can count.",),
    objectives=("double a number", "say why"),
    main_control="gs-demo-slider",
    main_view="gs-demo-view",
)
"""
CHECKS = """
from gatescope_lessons.compare import compare
from gatescope_lessons.exercises import exercise


@exercise(hints=("Two of them.", "2 * x."), afterword="Twice is two times.")
def double(answer):
    return compare(answer(3.0), 6.0)
"""
SOURCE = """
# %% [markdown]
# ## Prediction
# Some **prose** with x < y.

# %% tags=["parameters"]
profile = "quick"

# %%
from PACKAGE.l01_demo import checks
from gatescope_lessons.predictions import predict

guess = predict("twice", "How much is 2 * 3?", ("5", "6"))
guess

# %% [markdown]
# ### Your turn

# %% [markdown] tags=["hint"]
# Two of them.

# %% [markdown] tags=["hint"]
# `2 * x`

# %% tags=["exercise"]
def double(x):
    return ...

# %% tags=["solution"]
def double(x):
    return 2 * x

# %%
checks.double(double)
"""
_serial = itertools.count()


@dataclass(frozen=True)
class Demo:
    """The shelf, and ways to change its lesson."""

    shelf: Shelf
    folder: str = "l01_demo"

    @property
    def path(self) -> Path:
        return self.shelf.folder / self.folder

    def write(self, name: str, text: str) -> None:
        self.path.joinpath(name).write_text(text.replace("PACKAGE", self.shelf.package), encoding="utf-8")

    def change(self, *replacements: tuple[str, str]) -> None:
        """Replace text in lesson.py, each exactly once."""
        text = self.shelf.source(self.folder).read_text(encoding="utf-8")
        for old, new in replacements:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        self.write("lesson.py", text)

    def append(self, *cells: str) -> None:
        """Add code cells at the end of lesson.py and build."""
        text = self.shelf.source(self.folder).read_text(encoding="utf-8")
        self.write("lesson.py", text + "".join(f"\n# %%\n{cell}\n" for cell in cells))
        build.write(self.shelf)


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Demo]:
    package = f"demo_lessons_{next(_serial)}"
    made = Demo(Shelf(package, tmp_path / "source" / package, tmp_path / "notebooks"))
    made.path.mkdir(parents=True)
    (made.shelf.folder / "__init__.py").touch()
    made.write("__init__.py", INIT)
    made.write("checks.py", CHECKS)
    made.write("lesson.py", SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path / "source"))
    importable = [str(tmp_path / "source"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, importable)))
    yield made
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The progress file of the test; no test writes the learner's."""
    path = tmp_path / "progress.jsonl"
    monkeypatch.setenv("GATESCOPE_PROGRESS", str(path))
    return path


@pytest.fixture
def expect_diagnosis() -> Callable[[Callable, object, str | None], None]:
    """Asks a check about an answer: it passes where no diagnosis is expected, and else gives this one."""

    def ask(check: Callable, answer: object, diagnosis: str | None) -> None:
        result = check(answer)
        if diagnosis is None:
            assert result.status == "passed"
        else:
            assert result.status == "not yet"
            assert diagnosis in result.detail

    return ask


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Makes an empty checkout of its own and points GATESCOPE_ROOT at it."""

    def make() -> Path:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "manifest.toml").write_text("")
        monkeypatch.setenv("GATESCOPE_ROOT", str(tmp_path))
        return tmp_path

    return make
