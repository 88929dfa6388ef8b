"""One self-contained page: no script, nothing from the network, every text escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

import pandas as pd

from gatescope.views.style import number

#: Rows of a table on the page; the record has the others.
MAX_ROWS = 400
_ID = re.compile(r'(\bid="|href="#|url\(#)')
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
#: The look of every page, light and dark.
STYLE = """
:root{color-scheme:light dark;--ink:#1a1a1a;--soft:#4d4d4d;--paper:#fff;--card:#f6f6f4;--rule:#d9d9d9;--mark:#b34700;
--link:#00528a}
@media (prefers-color-scheme:dark){:root{--ink:#ececec;--soft:#b5b5b5;--paper:#161616;--card:#222;--rule:#444;
--mark:#ff9a57;--link:#7cc4f5}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 Helvetica,Arial,"DejaVu Sans",sans-serif;
overflow-wrap:anywhere}
main{max-width:62rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.25;margin:.5rem 0}h2{margin:2.6rem 0 .6rem;font-size:1.35rem}
h3{margin:1.8rem 0 .4rem;font-size:1.08rem}
p{margin:.4rem 0}.soft{color:var(--soft)}a{color:var(--link)}
nav ul{padding:0;margin:.8rem 0;display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;list-style:none}
.finding{background:var(--card);border-left:5px solid var(--mark);padding:.7rem 1rem;margin:.8rem 0}
.finding h3{margin:0 0 .2rem}
figure{margin:.6rem 0 1.4rem}
.scroll{overflow-x:auto;max-width:100%}
.plot{background:#fff;border:1px solid var(--rule)}
.plot svg image{image-rendering:pixelated}
.plot svg{display:block;width:100%;min-width:40rem;height:auto}
table{border-collapse:collapse;font-size:.87rem;font-variant-numeric:tabular-nums;margin:.5rem 0}
th,td{padding:.25rem .8rem .25rem 0;border-bottom:1px solid var(--rule);text-align:right;vertical-align:top;
overflow-wrap:normal}
th.text,td.text{text-align:left}td.text{max-width:34rem;overflow-wrap:break-word}
th{color:var(--soft);font-weight:600;white-space:nowrap}
summary{cursor:pointer;color:var(--link);padding:.3rem 0}
code{font-size:.9em}
"""


def page(title: str, intro: Sequence[str], sections: Sequence[tuple[str, str, str]]) -> str:
    """A whole document. ``title`` and ``intro`` are escaped here; a section is (anchor, heading, safe HTML)."""
    links = "".join(f'<li><a href="#{anchor}">{escape(heading)}</a></li>' for anchor, heading, _ in sections)
    body = "".join(
        f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{escape(heading)}</h2>{html}</section>'
        for anchor, heading, html in sections
    )
    lines = "".join(f'<p class="soft">{escape(line)}</p>' for line in intro)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f'<h1>{escape(title)}</h1>{lines}<nav aria-label="Contents"><ul>{links}</ul></nav>{body}</main></body></html>\n'
    )


def figure(still: Any, anchor: str, frame: pd.DataFrame) -> str:
    """A matplotlib still as inline SVG with its alt text, and the numbers it drew as a table behind it."""
    source = still.svg().decode("utf-8")
    source = source[source.index("<svg") :]
    source = _ID.sub(lambda found: f"{found[1]}{anchor}-", source)
    source = re.sub(r"<metadata>.*?</metadata>", "", source, flags=re.DOTALL)
    alt = escape(still.alt_text)
    source = source.replace("<svg ", f'<svg role="img" aria-label="{alt}" ', 1)
    return (
        f'<figure><div class="scroll plot" tabindex="0" role="group" aria-label="Figure, scrolls sideways">{source}'
        f"</div>{details(frame)}</figure>"
    )


def details(frame: pd.DataFrame, summary: str = "The numbers as a table") -> str:
    """A table that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary>{table(frame)}</details>"


def table(frame: pd.DataFrame) -> str:
    """A table whose cells are escaped; numbers to the right, text to the left; at most `MAX_ROWS` rows."""
    shown = frame.head(MAX_ROWS)
    text = [not pd.api.types.is_numeric_dtype(frame[name]) for name in frame.columns]
    kinds = [' class="text"' if is_text else "" for is_text in text]
    heads = "".join(
        f'<th scope="col"{kind}>{escape(str(name))}</th>' for name, kind in zip(frame.columns, kinds, strict=True)
    )
    rows = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{escape(_cell(value))}</td>" for value, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in shown.itertuples(index=False, name=None)
    )
    more = (
        f'<p class="soft">The first {MAX_ROWS} of {len(frame):,} rows; the record has them all.</p>'
        if len(frame) > MAX_ROWS
        else ""
    )
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="Table, scrolls sideways">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{more}"
    )


def finding(title: str, sentences: Sequence[str], frame: pd.DataFrame | None = None) -> str:
    """A result in words, with the numbers it rests on."""
    text = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    rows = "" if frame is None or frame.empty else details(frame, "Where")
    return f'<div class="finding"><h3>{escape(title)}</h3>{text}{rows}</div>'


def _cell(value: Any) -> str:
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e6 else number(value)
    return str(value)


__all__ = ["MAX_ROWS", "details", "figure", "finding", "page", "table"]
