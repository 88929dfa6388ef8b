"""The words of the lessons: one list, linked from where a lesson first sets a word in bold."""

from __future__ import annotations

import html
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gatescope.errors import Refusal
from gatescope.views.style import Html, card, table

_FILE = Path(__file__).parent / "glossary.toml"
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
#: Where the list is shown: a heading of the start page.
PAGE, HEADING = "00_start.ipynb", "Words"


@dataclass(frozen=True, slots=True)
class Term:
    """A word, its other names, and what it means in one sentence."""

    name: str
    means: str
    also: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names in lower case, as they are looked up."""
        return tuple(name.lower() for name in (self.name, *self.also))


@cache
def terms(path: Path = _FILE) -> tuple[Term, ...]:
    """All words. Raises Refusal for a name given twice, an empty meaning, or words out of order."""
    found = tuple(
        Term(entry["name"], entry["means"].strip(), tuple(entry.get("also", ())))
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["term"]
    )
    names = [name for term in found for name in term.names]
    if twice := {name for name in names if names.count(name) > 1}:
        raise Refusal(path.name, "every name once", ", ".join(sorted(twice)), "keep one of them")
    if empty := [term.name for term in found if not term.means]:
        raise Refusal(path.name, "a meaning of every word", ", ".join(empty), "write one sentence")
    if [term.name.lower() for term in found] != sorted(term.name.lower() for term in found):
        raise Refusal(path.name, "words in alphabetical order", "another order", "move the new word")
    return found


def linked(markdown: Sequence[str], up: str = "") -> list[str]:
    """Texts of one lesson in which the first bold use of every word is a link with its meaning as the title.

    up  "../" for a notebook one folder below the start page
    """
    meanings = {name: term for term in terms() for name in term.names}
    seen: set[Term] = set()

    def link(match: re.Match[str]) -> str:
        term = meanings.get(match[1].strip().lower())
        if term is None or term in seen:
            return match[0]
        seen.add(term)
        return f'[**{match[1]}**]({up}{PAGE}#{HEADING} "{html.escape(term.means)}")'

    return [_BOLD.sub(link, text) for text in markdown]


def glossary() -> Html:
    """All words and what they mean."""
    rows = [[", ".join((term.name, *term.also)), term.means] for term in terms()]
    body = table(["word", "meaning"], rows, cells="prose")
    return card(f"{len(rows)} words", [], body, "gs-glossary")
