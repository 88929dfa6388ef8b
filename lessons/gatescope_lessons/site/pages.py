"""Executed notebooks and documents as pages that open offline."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from gatescope.report.page import STYLE
from nbformat import NotebookNode

from gatescope_lessons.site.markdown import to_html
from gatescope_lessons.site.outputs import Widgets

_CSS = (Path(__file__).parent / "site.css").read_text(encoding="utf-8")
_SKIPPED = {"injected-parameters", "parameters", "papermill-error-cell-tag"}
#: The head of a notebook leads to its other edition, which the site does not have.
_EDITION = re.compile(r" · \w+ edition \(\[\w+\]\([\w./]+\)\)")
PLOTLY = "assets/plotly.min.js"


@dataclass(frozen=True, slots=True)
class Link:
    """An entry of the bar on every page."""

    href: str
    text: str


def document(title: str, bar: Sequence[Link], main: str, *, here: str, scripts: Sequence[str] = ()) -> str:
    """A whole page. ``main`` is HTML that is safe already; ``here`` is the page's own address."""
    current = ' aria-current="page"'
    links = "".join(
        f'<li><a href="{escape(link.href)}"{current if link.href == here else ""}>{escape(link.text)}</a></li>'
        for link in bar
    )
    loaded = "".join(f'<script src="{escape(script)}"></script>' for script in scripts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{_CSS}</style>{loaded}</head><body>"
        f'<header><nav aria-label="Pages"><ul>{links}</ul></nav></header><main>{main}</main></body></html>\n'
    )


def notebook_main(notebook: NotebookNode) -> tuple[str, bool]:
    """The cells of an executed notebook as HTML, and whether they need plotly.js.

    Raises Refusal when a cell of it failed.
    """
    saved = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {})
    widgets = Widgets(saved.get("state", {}))
    parts = []
    for cell in notebook.cells:
        if _SKIPPED & set(cell.metadata.get("tags", ())):
            continue
        if cell.cell_type == "markdown":
            parts.append(f'<section class="text">{to_html(_EDITION.sub("", cell.source))}</section>')
        elif cell.source.strip():
            shown = [] if "local" in cell.metadata.get("tags", ()) else cell.outputs
            outputs = "".join(f'<div class="output">{widgets.html(output)}</div>' for output in shown)
            parts.append(f'<section class="cell">{_code(cell.source)}{outputs}</section>')
    return "".join(parts), widgets.plots > 0


def document_main(markdown: str) -> str:
    """A markdown document as HTML."""
    return f'<section class="text wide">{to_html(markdown)}</section>'


def _code(source: str) -> str:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    html = highlight(source.rstrip(), PythonLexer(), HtmlFormatter(cssclass="code"))
    return html.replace("<pre>", '<pre tabindex="0">', 1)  # long lines scroll, by keys too
