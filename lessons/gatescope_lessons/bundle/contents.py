"""What lies in the course: for learners all they need to run it and no solution, for teachers the rest."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from gatescope import data
from gatescope.errors import Refusal
from gatescope.paths import data_dir, repo_root

from gatescope_lessons import build
from gatescope_lessons.lesson_kit import Shelf
from gatescope_lessons.teaching import handbook

SUMS = "SHA256SUMS"
_TEXTS = Path(__file__).parent
_ROOT = ("CHANGELOG.md", "Dockerfile", ".dockerignore", "LICENSE", "Makefile", "environment.yml", "pyproject.toml")
_PACKAGES = {"toolkit": "gatescope", "kernels": "gatescope_kernels", "lessons": "gatescope_lessons"}
_SUFFIXES = frozenset({".py", ".toml", ".js", ".css", ".md"})
_SOLVED = re.compile(r'# %%[^\n]*\btags=\[[^\]\n]*"solution"')
#: What a notebook or a lesson says of solutions beside it, and what it says where there are none.
_SAID = (
    (re.compile(r" \(\[solutions\]\(solutions/[^)\s]+\)\)"), ""),
    (re.compile(r"the same notebook in `solutions/`"), "ask your teacher: this course comes without them"),
)


def learner_files(shelf: Shelf) -> dict[str, bytes]:
    """path -> bytes of all that a learner needs to set up and run every lesson.

    Notebooks are the exercise edition, built now, so they have no outputs; every lesson.py is without its cells
    tagged ``solution``; teaching.md stays out. Raises Refusal for a lesson that cannot be built, DataError for a file
    of data/ that is missing or damaged.
    """
    root, notebooks = repo_root(), _notebooks(shelf)
    files = {name: (root / name).read_bytes() for name in _ROOT}
    files["README.md"] = (_TEXTS / "learner.md").read_bytes()
    files |= {f"scripts/{path.name}": path.read_bytes() for path in _scripts(root / "scripts" / "bootstrap.py")}
    for room, package in _PACKAGES.items():
        files |= {path.relative_to(root).as_posix(): path.read_bytes() for path in _sources(root / room / package)}
    for folder in shelf.folders():
        place = f"lessons/{shelf.folder.name}/{folder}"
        files.pop(f"{place}/teaching.md", None)
        files[f"{place}/lesson.py"] = without_solutions(files[f"{place}/lesson.py"].decode()).encode()
    files |= {name: _unlinked(text).encode() for name, text in notebooks.items() if "/solutions/" not in name}
    files |= {f"data/{name}": data.path(name).read_bytes() for name in data.rows()}
    files[f"data/{data.MANIFEST}"] = (data_dir() / data.MANIFEST).read_bytes()
    return _summed(files)


def teacher_files(shelf: Shelf) -> dict[str, bytes]:
    """path -> bytes of what is the teacher's: laid over `learner_files` it makes the course whole."""
    learners = learner_files(shelf)
    files = {name: text.encode() for name, text in _notebooks(shelf).items()}
    files["TEACHING.md"] = handbook(shelf).encode()
    for folder in shelf.folders():
        for name in ("lesson.py", "teaching.md"):
            files[f"lessons/{shelf.folder.name}/{folder}/{name}"] = (shelf.folder / folder / name).read_bytes()
    files["README.md"] = (_TEXTS / "teacher.md").read_bytes()
    return files | {SUMS: _summed(learners | files)[SUMS]}


def without_solutions(source: str) -> str:
    """A lesson.py without the cells tagged ``solution``; what it asks for stays, so progress can be told."""
    cells = re.split(r"^(?=# %%)", source, flags=re.MULTILINE)
    return _unlinked("".join(cell for cell in cells if not _SOLVED.match(cell)))


def _sources(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise Refusal("bundle", f"the sources in {folder}", "no such folder", "run it in a clone")
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(folder).parts)
        if path.suffix in _SUFFIXES and path.is_file() and not hidden:
            yield path


def _scripts(first: Path) -> set[Path]:
    """A script with those beside it that it imports."""
    found, coming = set(), {first}
    while coming:
        found.add(script := coming.pop())
        names = {
            alias.name if isinstance(node, ast.Import) else str(node.module)
            for node in ast.walk(ast.parse(script.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        coming |= {path for name in names if (path := first.parent / f"{name}.py").is_file()} - found
    return found


def _notebooks(shelf: Shelf) -> dict[str, str]:
    return {
        f"notebooks/{path.relative_to(shelf.notebooks).as_posix()}": text
        for folder in shelf.folders()
        for path, text in build.built(shelf, folder).items()
    }


def _unlinked(text: str) -> str:
    for said, instead in _SAID:
        text = said.sub(instead, text)
    return text


def _summed(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files with a list of their digests, as ``sha256sum -c`` reads it."""
    others = {name: content for name, content in files.items() if name != SUMS}
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(others.items())]
    return {**others, SUMS: "".join(lines).encode()}
