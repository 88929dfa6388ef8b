"""The claims as data: ``claims/<paper>.toml`` to Paper and Claim."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from gatescope.errors import Refusal

from gatescope_lessons.verdicts import Terms

LOCK = "verdicts.lock.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """A publication. ``key`` is the name of its file."""

    key: str
    title: str
    authors: str
    year: int
    arxiv: str

    @property
    def short(self) -> str:
        """For tables: first author and year."""
        return f"{self.authors.split(',')[0]} {self.year}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a paper says, where, in its own numbers, and how a lesson measures it.

    statement  one sentence
    where      section, table or figure
    published  the paper's numbers, as text
    lesson     folder of the lesson
    terms      what will count
    scale      what was measured here, and on what
    """

    id: str
    paper: Paper
    statement: str
    where: str
    published: str
    lesson: str
    terms: Terms
    scale: str


_TERMS = {field.name for field in fields(Terms)}
_TEXTS = {field.name for field in fields(Claim)} - {"paper", "terms"}
_PAPER = {field.name for field in fields(Paper)} - {"key"}


def load_claims(folder: Path | None = None) -> list[Claim]:
    """All claims of a folder, by default this package's, in the order of the files and of their lines.

    Raises Refusal naming the file for unreadable TOML, a missing or unknown key, or an id that two claims share.
    """
    claims: list[Claim] = []
    for file in sorted((folder or Path(__file__).parent / "claims").glob("*.toml")):
        if file.name != LOCK:
            claims += _paper_claims(file)
    ids = [claim.id for claim in claims]
    if repeated := sorted({name for name in ids if ids.count(name) > 1}):
        raise Refusal("claims", "an id of its own for every claim", ", ".join(repeated), "rename one")
    return claims


def _paper_claims(file: Path) -> list[Claim]:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refusal(f"claims/{file.name}", "TOML", str(error), "correct the file") from error
    rows = table.pop("claim", [])
    _refuse_other_keys(file, "the paper", set(table), _PAPER)
    paper = Paper(key=file.stem, **table)
    claims = []
    for row in rows:
        _refuse_other_keys(file, f"claim {row.get('id', '?')}", set(row), _TERMS | _TEXTS)
        terms = Terms(**{key: row[key] for key in _TERMS})
        claims.append(Claim(paper=paper, terms=terms, **{key: row[key] for key in _TEXTS}))
    return claims


def _refuse_other_keys(file: Path, what: str, got: set[str], wanted: set[str]) -> None:
    if got != wanted:
        wrong = [f"no {key}" for key in sorted(wanted - got)] + [f"unknown {key}" for key in sorted(got - wanted)]
        raise Refusal(
            f"claims/{file.name}", f"{what} with {', '.join(sorted(wanted))}", ", ".join(wrong), "correct the keys"
        )
