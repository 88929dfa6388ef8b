"""The claims of one lesson, shown inside it with their computed verdicts."""

from __future__ import annotations

import html
from dataclasses import dataclass

from gatescope.errors import Refusal

from gatescope_lessons.claims_ledger import Row, evaluate
from gatescope_lessons.papers import load_claims

_MARK = {"shown": "✔", "contradicted": "✘", "not shown at this scale": "○", "not measured": "–"}
_COLUMNS = ("paper", "claim", "published", "measured here", "verdict")


@dataclass(frozen=True, slots=True)
class Scoreboard:
    """Verdicts of a lesson's claims; a table in Jupyter, plain lines elsewhere."""

    rows: tuple[Row, ...]

    def cells(self) -> list[tuple[str, ...]]:
        """The table's rows as text, in the order of its columns."""
        table = []
        for row in self.rows:
            claim, verdict = row.claim, row.verdict
            measured = "not measured"
            if verdict.effect is not None:
                interval = f"{verdict.effect:.3g} [{verdict.low:.3g}, {verdict.high:.3g}]"
                measured = f"{interval}, {verdict.n} {claim.terms.replicate}s: {claim.scale}"
            where = f"{claim.paper.short}, {claim.where}"
            outcome = f"{_MARK[verdict.outcome]} {verdict.outcome}"
            table.append((where, claim.statement, claim.published, measured, f"{outcome} ({verdict.reason})"))
        return table

    def __repr__(self) -> str:
        return "\n".join(f"{verdict}: {claim} {measured}" for _, claim, _, measured, verdict in self.cells())

    def _repr_html_(self) -> str:
        style = "text-align: left; vertical-align: top; white-space: normal"
        head = "".join(f'<th scope="col" style="{style}">{name}</th>' for name in _COLUMNS)
        body = "".join(
            "<tr>" + "".join(f'<td style="{style}">{html.escape(cell)}</td>' for cell in cells) + "</tr>"
            for cells in self.cells()
        )
        return (
            f'<table class="gs-scoreboard"><caption>Claims and verdicts; 95 % intervals of the mean</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )


def scoreboard(lesson: str) -> Scoreboard:
    """The verdicts on the claims of a lesson folder, computed now from its record in data/measured/.

    Raises Refusal for a lesson without claims.
    """
    rows = tuple(evaluate(claims=[claim for claim in load_claims() if claim.lesson == lesson]))
    if not rows:
        raise Refusal("scoreboard", "a lesson with claims in claims/*.toml", repr(lesson), "name the lesson's folder")
    return Scoreboard(rows)
