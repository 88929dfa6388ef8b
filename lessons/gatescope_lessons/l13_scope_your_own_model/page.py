"""A report shown inside a notebook."""

from __future__ import annotations

from html import escape
from pathlib import Path

from gatescope.views.style import RULE, Html


def shown(report: Path, height: int = 520) -> Html:
    """A self-contained page in a frame of its own, ``height`` pixels high; its scripts run, and reach nothing outside.

    The page is part of the output, so that it shows wherever the notebook lies.
    """
    source = escape(report.read_text(encoding="utf-8"), quote=True)
    style = f"width:100%;height:{height}px;border:1px solid {RULE};background:#FFFFFF"
    frame = (
        f'<iframe class="gs-report" title="Report" sandbox="allow-scripts" style="{style}" srcdoc="{source}"></iframe>'
    )
    where = f'<div style="font-size:12px">The same page is {escape(str(report))}</div>'
    return Html(frame + where, f"The report {report.name}")
