"""`gatescope systems`: every system the lab shows, from paper to code, lesson, claims and verdicts.

A row is *closed* when its mechanism stands in the toolkit, a test shows that it differs from its ablation and from its
named baseline, a test holds it to an independent reference, a lesson applies it where the effect could fail, and its
claims have verdicts from a record in data/. What a row lacks is computed, never typed.
"""

from __future__ import annotations

import ast
import importlib
import tomllib
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from gatescope.errors import Refusal
from gatescope.paths import repo_root
from gatescope_kernels.command import Command

from gatescope_lessons.claims_ledger import Row, evaluate
from gatescope_lessons.lesson_kit import Shelf, own_shelf
from gatescope_lessons.marked import marked, rewrite

_REFRESH = "run `gatescope systems --write`"


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One published mechanism and where it lives here.

    id         a short name of its own
    name       as its authors call it
    family     what kind of mechanism it is
    shows      what must work, or the effect to show, in one sentence
    paper      stem of its file in claims/
    lesson     folder of the lesson that teaches it
    code       ``module:name`` of what runs it
    applied    ``module:name`` of the lesson's function that trains or applies it
    differs    tests that it differs from its ablation and its named baseline, as ``file::test``
    reference  tests that it agrees with an independent reference, as ``file::test``
    claims     ids of the claims that speak of it

    All but the first four may be empty; the row is then open, and says what it lacks.
    """

    id: str
    name: str
    family: str
    shows: str
    paper: str = ""
    lesson: str = ""
    code: tuple[str, ...] = ()
    applied: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    reference: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """A system, its claims as they stand, what it lacks, and what it names in vain."""

    system: System
    claims: tuple[Row, ...]
    lacks: tuple[str, ...]
    broken: tuple[str, ...]

    @property
    def closed(self) -> bool:
        """Nothing lacks, and all that is named is there."""
        return not self.lacks and not self.broken

    @property
    def said(self) -> str:
        """Closed, or open and what is missing."""
        if set(self.lacks) == set(_LACKS.values()):
            return "open: nothing of it stands"
        return "closed" if self.closed else "open: " + ", ".join((*self.broken, *self.lacks))


_KEYS = {field.name for field in fields(System)}
_MUST = {"id", "name", "family", "shows"}
_LISTS = {"code", "applied", "differs", "reference", "claims"}


def load_systems(file: Path | None = None) -> list[System]:
    """The rows of systems.toml, in their order.

    Raises Refusal for unreadable TOML, an unknown or missing key, or an id that two rows share.
    """
    file = file or Path(__file__).parent / "systems.toml"
    try:
        rows = tomllib.loads(file.read_text(encoding="utf-8")).get("system", [])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refusal(file.name, "TOML", str(error), "correct the file") from error
    for row in rows:
        wrong = [f"no {key}" for key in sorted(_MUST - set(row))]
        wrong += [f"unknown {key}" for key in sorted(set(row) - _KEYS)]
        if wrong:
            raise Refusal(
                f"{file.name}, {row.get('id', '?')}", f"the keys {', '.join(_KEYS)}", ", ".join(wrong), "correct them"
            )
    ids = [row["id"] for row in rows]
    if repeated := sorted({name for name in ids if ids.count(name) > 1}):
        raise Refusal(file.name, "an id of its own for every system", ", ".join(repeated), "rename one")
    return [System(**{key: tuple(value) if key in _LISTS else value for key, value in row.items()}) for row in rows]


def standing(system: System, claims: Iterable[Row], shelf: Shelf | None = None) -> Standing:
    """How a system stands, given the claims as `evaluate` judges them now."""
    shelf = shelf or own_shelf()
    of_id = {row.claim.id: row for row in claims}
    own = tuple(of_id[name] for name in system.claims if name in of_id)
    lacks = [_LACKS[key] for key in _LACKS if not getattr(system, key)]
    lacks += [f"a verdict on {row.claim.id}" for row in own if row.verdict.outcome == "not measured"]
    broken = [f"no claim {name}" for name in system.claims if name not in of_id]
    broken += [
        f"claim {row.claim.id} is of {row.claim.paper.key}"
        for row in own
        if system.paper and row.claim.paper.key != system.paper
    ]
    if system.lesson and system.lesson not in shelf.folders():
        broken.append(f"no lesson {system.lesson}")
    broken += [f"no {place}" for place in (*system.code, *system.applied) if not _importable(place)]
    broken += [f"no {test}" for test in (*system.differs, *system.reference) if not _is_test(test)]
    return Standing(system, own, tuple(lacks), tuple(broken))


_LACKS = {
    "code": "code in the toolkit",
    "differs": "a test against ablation and baseline",
    "reference": "a test against a reference",
    "lesson": "a lesson",
    "applied": "a lesson cell that applies it",
    "claims": "claims",
}


def _importable(place: str) -> bool:
    module, _, name = place.partition(":")
    try:
        return bool(name) and hasattr(importlib.import_module(module), name)
    except ModuleNotFoundError:
        return False


def _is_test(place: str) -> bool:
    file, _, name = place.partition("::")
    return name in _tests_of(repo_root() / file)


@cache
def _tests_of(file: Path) -> frozenset[str]:
    if not file.is_file():
        return frozenset()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def page(standings: Iterable[Standing], shelf: Shelf | None = None) -> str:
    """The systems as Markdown: a table, then what each open one lacks."""
    shelf, standings = shelf or own_shelf(), list(standings)
    closed = sum(one.closed for one in standings)
    lines = [f"{closed} of {len(standings)} closed.", ""]
    lines += ["| system | what it shows | lesson | code | verdicts | row |", "|---|---|---|---|---|---|"]
    for one in standings:
        system = one.system
        lesson = ""
        if system.lesson in shelf.folders():
            notebook = shelf.notebook(system.lesson, "exercise").name
            lesson = f"[{shelf.lesson(system.lesson).title}](../notebooks/{notebook})"
        cells = [
            f"**{system.name}**, {system.family}",
            system.shows,
            lesson,
            ", ".join(f"`{place.removeprefix('gatescope.')}`" for place in system.code),
            "; ".join(f"{row.claim.statement} *{row.verdict.outcome}*" for row in one.claims),
            one.said,
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def standings() -> list[Standing]:
    """All rows of systems.toml as they stand now."""
    rows = evaluate()
    return [standing(system, rows) for system in load_systems()]


def page_file() -> Path:
    """Where the page lies."""
    return repo_root() / "docs" / "systems.md"


def _configure(parser: ArgumentParser) -> None:
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--write", action="store_true", help="rewrite docs/systems.md")
    choice.add_argument("--check", action="store_true", help="exit 1 when docs/systems.md is out of step")


def _run(arguments: Namespace) -> int:
    found = standings()
    for one in found:
        print(f"{one.system.id:30}{one.said}")
    if arguments.write:
        rewrite(page_file(), "systems", page(found))
    wrong = [f"{one.system.id}: {what}" for one in found for what in one.broken]
    if arguments.check and marked(page_file(), "systems") != page(found):
        wrong.append(f"docs/{page_file().name}: not the page computed now; {_REFRESH}")
    if wrong:
        print("\n" + "\n".join(wrong))
    return 1 if wrong else 0


COMMAND = Command("print every system with its lesson, code and verdicts", _configure, _run)
