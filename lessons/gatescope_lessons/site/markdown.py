"""Markdown to HTML that needs no script: formulas become MathML, links to notebooks become links to pages."""

from __future__ import annotations

import re
from functools import cache
from html import escape, unescape
from typing import Any

import latex2mathml.converter
import mistune

_NOTEBOOK = re.compile(r'href="(?:\.\./|solutions/)*([\w.-]+)\.ipynb((?:#[^"]*)?)"')
_HEADING = re.compile(r"<h(\d)>(.*?)</h\1>", re.DOTALL)
_TABLE = re.compile(r"<table(?![^>]*tabindex)")
_EMPTY_HEADER = re.compile(r"<th[^>]*>\s*</th>")
_TAG = re.compile(r"<[^>]+>")
# Code comes first, so that a dollar in it starts no formula. A formula may go on in the next line.
_FORMULA = re.compile(
    r"(?P<code>```.*?```|`[^`]*`)|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\s](?:[^$]*?[^$\s])?)\$", re.DOTALL
)
#: Stands for a formula while markdown is read, so that no underscore of it starts an emphasis.
_PLACE = "\ue000{}\ue001"


def to_html(text: str) -> str:
    """Our own markdown, raw HTML in it included. Headings get the ids that JupyterLab would give them."""
    formulas: list[str] = []

    def away(match: re.Match[str]) -> str:
        if match["code"]:
            return match[0]
        block = match["block"] is not None
        formulas.append(mathml(match["block"] if block else match["inline"], "block" if block else "inline"))
        return _PLACE.format(len(formulas) - 1)

    html = str(_parser()(_FORMULA.sub(away, text)))
    html = re.sub(_PLACE.format(r"(\d+)"), lambda match: formulas[int(match[1])], html)
    html = _NOTEBOOK.sub(r'href="\1.html\2"', html)
    return readable(_HEADING.sub(_anchored, html))


def readable(html: str) -> str:
    """Tables for everybody: a wide one, which scrolls, is reached with the keyboard, and a header that is empty, as
    pandas leaves over its index, is none."""
    return _TABLE.sub('<table tabindex="0"', _EMPTY_HEADER.sub("<td></td>", html))


def heading_id(text: str) -> str:
    """The anchor of a heading, as JupyterLab makes it."""
    return unescape(_TAG.sub("", text)).strip().replace(" ", "-")


def mathml(latex: str, display: str) -> str:
    """A formula as MathML; what cannot be converted is shown as it is written."""
    known = latex.strip().replace(r"\arg", r"\operatorname{arg}")  # the one command of ours that it does not know
    try:
        return str(latex2mathml.converter.convert(known, display=display))
    except Exception:  # the converter raises whatever its parser meets
        return f"<code>{escape(latex.strip())}</code>"


def _anchored(match: re.Match[str]) -> str:
    level, text = match[1], match[2]
    return f'<h{level} id="{escape(heading_id(text))}">{text}</h{level}>'


@cache
def _parser() -> Any:
    return mistune.create_markdown(escape=False, plugins=["table", "strikethrough", "url"])
