"""The letters of shapes and formulas: what each means, and in which lessons."""

from __future__ import annotations

import io
import re
import tokenize
import tomllib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gatescope.dims import LETTERS
from gatescope.views.style import Html, card, table

from gatescope_lessons.lesson_kit import Shelf, number, own_shelf

_FILE = Path(__file__).parent / "symbols.toml"
_GREEK = "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi psi omega"
_GREEKS = frozenset(_GREEK.split()) | frozenset(name.title() for name in _GREEK.split())
#: [T, K] or [B H T K], but neither an index as in A[i, 0] nor a link.
_SHAPE = re.compile(r"(?<![\w\])\"'])\[([A-Za-z0-9_ ,/+*-]+)\](?!\()")
_JAXTYPING = re.compile(r"\b[A-Z]\w+\[[\w.| ]+, ?\"([^\"]*)\"\]")
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$", re.DOTALL)
# Words inside formulas, the reals, the index of a weight as in W_Q, and the O of O(T): none of them a symbol.
_NO_SYMBOL = re.compile(r"\\(?:text|mathrm|operatorname|mathbb)\s*\{[^{}]*\}|(?<=W)[_^](?:\{[^{}]*\}|\w)|\bO(?=\()")


@dataclass(frozen=True, slots=True)
class Symbol:
    """A letter with one of its meanings.

    letter   as shapes have it, or the name of a Greek letter as LaTeX has it
    means    in a few words
    size     whether it counts something and so may stand in a shape
    lessons  numbers of the lessons where it means this; none: all that have no meaning of their own for it
    """

    letter: str
    means: str
    size: bool = False
    lessons: tuple[int, ...] = ()

    @property
    def shown(self) -> str:
        """The letter itself: "beta" as β."""
        if len(self.letter) == 1:
            return self.letter
        case = "CAPITAL" if self.letter[0].isupper() else "SMALL"
        return unicodedata.lookup(f"GREEK {case} LETTER {self.letter.upper().replace('LAMBDA', 'LAMDA')}")


@cache
def symbols() -> tuple[Symbol, ...]:
    """Every letter with every meaning: those of dims.py, which count, and those of symbols.toml."""
    rows = tomllib.loads(_FILE.read_text(encoding="utf-8"))["symbol"]
    own = [Symbol(row["letter"], row["means"], row.get("size", False), tuple(row["lessons"])) for row in rows]
    counted = [Symbol(letter, dim.counts, size=True) for letter, dim in LETTERS.items()]
    return tuple(sorted([*counted, *own], key=lambda each: (len(each.letter) > 1, each.letter.lower(), each.letter)))


def meanings(letter: str, lesson: int, *, in_shape: bool) -> list[Symbol]:
    """What a letter may mean in a lesson: its own meanings there, else the one that all lessons share."""
    found = [each for each in symbols() if each.letter == letter and (each.size or not in_shape)]
    return [each for each in found if lesson in each.lessons] or [each for each in found if not each.lessons]


def in_shapes(shelf: Shelf, folder: str) -> set[str]:
    """Single letters in the shapes of a lesson: in docstrings, comments, prose and annotations of all its files."""
    shapes: list[str] = []
    for path in (shelf.folder / folder).glob("*.py"):
        source = path.read_text(encoding="utf-8")
        shapes += [match[1] for text in _told(source) for match in _SHAPE.finditer(text)]
        shapes += _JAXTYPING.findall(source)
    return {name for shape in shapes for name in re.findall(r"\w+", shape) if len(name) == 1 and name.isalpha()}


def in_formulas(shelf: Shelf, folder: str) -> set[str]:
    """Capital and Greek letters in the formulas of a lesson's prose; small ones are explained where they stand."""
    source = shelf.source(folder).read_text(encoding="utf-8")
    prose = "\n".join(line.removeprefix("#") for line in source.splitlines() if line.startswith("# "))
    formulas = (match[1] or match[2] for match in _FORMULA.finditer(prose))
    found = re.findall(r"\\([A-Za-z]+)|([A-Z])", " ".join(_NO_SYMBOL.sub(" ", formula) for formula in formulas))
    return {letter or name for name, letter in found if letter or name in _GREEKS}


def _told(source: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and token.string.startswith('"""')):
            yield token.string


def used_by(shelf: Shelf) -> dict[Symbol, list[int]]:
    """Every symbol of the shelf -> the numbers of its lessons: those it names, or those that turn out to use it."""
    found: dict[Symbol, list[int]] = {each: [] for each in symbols()}
    for folder in shelf.folders():
        lesson = number(folder)
        letters = {(letter, True) for letter in in_shapes(shelf, folder)}
        letters |= {(letter, False) for letter in in_formulas(shelf, folder)}
        meant = {each for letter, where in letters for each in meanings(letter, lesson, in_shape=where)}
        for each in meant | {each for each in found if lesson in each.lessons}:
            found[each].append(lesson)
    return {each: lessons for each, lessons in found.items() if lessons}


def symbol_table(shelf: Shelf | None = None) -> Html:
    """All letters of shapes and formulas, what they mean and where."""
    used = used_by(shelf or own_shelf())
    rows = [[each.shown, each.means, ", ".join(f"{n:02d}" for n in lessons)] for each, lessons in used.items()]
    body = table(["letter", "meaning", "lessons"], rows, cells="prose")
    return card(f"{len({each.letter for each in used})} letters", [], body, "gs-symbols")
