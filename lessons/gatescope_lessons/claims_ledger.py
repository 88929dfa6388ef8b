"""`gatescope claims`: every claim with its computed verdict; the README's table and the lock file hold the same."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from gatescope import data
from gatescope.errors import DataError, Refusal
from gatescope.paths import atomic_write, repo_root
from gatescope_kernels.command import Command

from gatescope_lessons.lesson_kit import Shelf, own_shelf
from gatescope_lessons.marked import with_marked
from gatescope_lessons.papers import LOCK, Claim, load_claims
from gatescope_lessons.verdicts import Verdict, judge

if TYPE_CHECKING:
    import xarray as xr

#: Attribute of a measured record: claim id -> digest of the terms it was measured under.
TERMS_ATTR = "claims_terms"
_REFRESH = "look at what changed, then run `gatescope claims --write`"


@dataclass(frozen=True, slots=True)
class Row:
    """A claim, its verdict, and what keeps the verdict from being trusted (empty when nothing does)."""

    claim: Claim
    verdict: Verdict
    problem: str = ""


def terms_of(folder: str, claims: list[Claim]) -> dict[str, str]:
    """What `TERMS_ATTR` of a record measured now must hold."""
    return {claim.id: claim.terms.digest() for claim in claims if claim.lesson == folder}


def evaluate(shelf: Shelf | None = None, claims: list[Claim] | None = None) -> list[Row]:
    """The verdict on every claim, from the records in data/measured/.

    A lesson without a record gives *not measured*. Terms changed after the record, an unknown lesson or metric, a
    damaged record or NaN give *not measured* and a problem.
    """
    shelf = shelf or own_shelf()
    record_of = cache(_record)
    return [_row(shelf, claim, record_of) for claim in (load_claims() if claims is None else claims)]


def problems(rows: list[Row], readme: Path | None = None, lock: Path | None = None) -> list[str]:
    """What is out of step: rows that cannot be trusted, then README and lock against the verdicts computed now."""
    readme, lock = readme or _readme(), lock or _lock()
    found = [row.problem for row in rows if row.problem]
    if not lock.is_file() or lock.read_text(encoding="utf-8") != lock_text(rows):
        found.append(f"claims/{lock.name}: other verdicts or numbers than computed now; {_REFRESH}")
    try:
        if _with_table(readme, rows) != readme.read_text(encoding="utf-8"):
            found.append(f"{readme.name}: its claims table is not the one computed now; {_REFRESH}")
    except DataError as error:
        found.append(str(error))
    return found


def write(rows: list[Row], readme: Path | None = None, lock: Path | None = None) -> None:
    """Write the README's table and the lock. Raises Refusal, touching nothing, while a row has a problem."""
    readme, lock = readme or _readme(), lock or _lock()
    if wrong := [row.problem for row in rows if row.problem]:
        raise Refusal("claims --write", "verdicts without problems", "; ".join(wrong), "solve these first")
    for path, text in ((readme, _with_table(readme, rows)), (lock, lock_text(rows))):
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def lock_text(rows: list[Row]) -> str:
    """The lock file: every verdict with the digits that count, so that a record that changes one is seen."""
    lines = ["# The verdicts somebody looked at. Written by `gatescope claims --write`; do not edit by hand."]
    for row in rows:
        lines += ["", f"[{row.claim.id}]", f"verdict = {json.dumps(row.verdict.outcome)}", f"n = {row.verdict.n}"]
        lines += [f"effect = {json.dumps(_effect(row.verdict))}"] if row.verdict.effect is not None else []
    return "\n".join(lines) + "\n"


def readme_table(rows: list[Row]) -> str:
    """The claims as a Markdown table."""
    lines = ["| paper | claim | published | measured here | verdict |", "|---|---|---|---|---|"]
    for row in rows:
        claim = row.claim
        link = f"[{claim.paper.short}](https://arxiv.org/abs/{claim.paper.arxiv}), {claim.where}"
        cells = [link, claim.statement, claim.published, _measured(row), f"*{row.verdict.outcome}*"]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def terminal_table(rows: list[Row]) -> str:
    """The claims for a terminal: paper, claim, where, effect, interval, replicates, verdict."""
    head = ("paper", "claim", "where", "measured", "verdict")
    table = [head] + [
        (row.claim.paper.short, row.claim.id, row.claim.where, _measured(row, scale=False), row.verdict.outcome)
        for row in rows
    ]
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
    )


def _row(shelf: Shelf, claim: Claim, record_of: Callable[[str], xr.Dataset | None]) -> Row:
    unmeasured = Verdict("not measured", 0, reason="no record")
    try:
        metric = _metric(shelf, claim)
        record = record_of(claim.lesson)
        if record is None:
            return Row(claim, unmeasured)
        measured_under = record.attrs.get(TERMS_ATTR, {}).get(claim.id)
        if measured_under != claim.terms.digest():
            got = (
                "a record that does not know this claim" if measured_under is None else "terms changed after the record"
            )
            again = f"measure again: gatescope run {claim.lesson} --profile full"
            raise Refusal(f"claim {claim.id}", "a record measured under its terms", got, again)
        return Row(claim, judge(metric(record), claim.terms))
    except Refusal as refusal:
        return Row(claim, unmeasured, str(refusal))


def _metric(shelf: Shelf, claim: Claim) -> Callable[[xr.Dataset], object]:
    operator = f"claim {claim.id}"
    if claim.lesson not in shelf.folders():
        raise Refusal(operator, "a lesson of this shelf", repr(claim.lesson), "write the lesson or correct the name")
    metrics = getattr(shelf.lab(claim.lesson), "METRICS", {})
    if claim.terms.metric not in metrics:
        known = ", ".join(sorted(metrics)) or "none"
        raise Refusal(
            operator, f"a metric in METRICS of {claim.lesson}/lab.py ({known})", claim.terms.metric, "write it"
        )
    return metrics[claim.terms.metric]


def _record(folder: str) -> xr.Dataset | None:
    from gatescope import records

    name = f"measured/{folder}.nc"
    return records.load(data.path(name)) if name in data.rows() else None


def _effect(verdict: Verdict) -> str:
    return f"{verdict.effect:.3g} [{verdict.low:.3g}, {verdict.high:.3g}]"


def _measured(row: Row, scale: bool = True) -> str:
    verdict, terms = row.verdict, row.claim.terms
    if verdict.effect is None:
        return verdict.reason
    said = f"{_effect(verdict)} against {terms.null:g}, {verdict.n} {terms.replicate}s"
    return f"{said}: {row.claim.scale}" if scale else said


def _with_table(readme: Path, rows: list[Row]) -> str:
    return with_marked(readme, "claims", readme_table(rows))


def _readme() -> Path:
    return repo_root() / "README.md"


def _lock() -> Path:
    return Path(__file__).parent / "claims" / LOCK


def _configure(parser: ArgumentParser) -> None:
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--write", action="store_true", help="rewrite the README's table and the lock file")
    choice.add_argument("--check", action="store_true", help="exit 1 when README or lock are out of step")


def _run(arguments: Namespace) -> int:
    rows = evaluate()
    print(terminal_table(rows))
    if arguments.write:
        write(rows)
    found = problems(rows) if arguments.check or arguments.write else [row.problem for row in rows if row.problem]
    if found:
        print("\n" + "\n".join(found))
    return 1 if found else 0


COMMAND = Command("print every published claim with its measured verdict", _configure, _run)
