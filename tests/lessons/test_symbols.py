"""A lesson's letters stand in the table with a meaning there, and the table has no letter that nobody uses."""

from __future__ import annotations

from pathlib import Path

import pytest
from gatescope.dims import LETTERS
from gatescope_lessons.lesson_kit import Shelf, number, own_shelf
from gatescope_lessons.symbols import in_formulas, in_shapes, meanings, symbol_table, symbols

FOLDERS = own_shelf().folders()


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """A shelf with one lesson, to be written."""
    (tmp_path / "l01_demo").mkdir()
    return Shelf("demo", tmp_path, tmp_path / "notebooks")


def write(shelf: Shelf, text: str, name: str = "lesson.py") -> None:
    (shelf.folder / "l01_demo" / name).write_text(text)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_letter_of_a_shape_has_a_meaning(folder: str) -> None:
    lesson = number(folder)
    letters = in_shapes(own_shelf(), folder)
    unknown = {letter for letter in letters if not meanings(letter, lesson, in_shape=True)}
    assert unknown == set(), "write them as dims.py has them, or give them a row with size = true in symbols.toml"
    double = {letter for letter in letters if len(meanings(letter, lesson, in_shape=True)) > 1}
    assert double == set(), "one letter counts one thing in a lesson"


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_symbol_of_a_formula_has_a_meaning(folder: str) -> None:
    letters = in_formulas(own_shelf(), folder)
    assert {letter for letter in letters if not meanings(letter, number(folder), in_shape=False)} == set()


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_table_names_no_lesson_that_does_not_use_the_letter(folder: str) -> None:
    used = in_shapes(own_shelf(), folder) | in_formulas(own_shelf(), folder)
    named = {each.letter for each in symbols() if number(folder) in each.lessons}
    assert {letter for letter in named - used if letter not in "kw"} == set()


def test_a_letter_of_dims_keeps_its_meaning_unless_a_lesson_says_otherwise() -> None:
    for letter, dim in LETTERS.items():
        assert [each.means for each in meanings(letter, 99, in_shape=True)] == [dim.counts]
    assert [each.means for each in meanings("N", 4, in_shape=True)] == ["stored patterns"]
    assert [each.means for each in meanings("H", 1, in_shape=True)] == [LETTERS["H"].counts]
    assert [each.means for each in meanings("H", 1, in_shape=False)] == ["entropy, in nats"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('def f(x):\n    """x: [T, K]; returns [T - 1]."""\n', {"T", "K"}),
        ('def f(x):\n    """x: [B H T V], a row of A[i, 0]."""\n', {"B", "H", "T", "V"}),
        ("x = y[Q, 0]  # [tokens, E] of all\n", {"E"}),
        ("# %% [markdown]\n# see [Z](other.ipynb) and $[T, D]$\n", {"T", "D"}),
        ('def f(x: Float[Tensor, "B *rows G"]) -> Int[np.ndarray, " 1"]: ...\n', {"B", "G"}),
        ("x = ['A', B]\n", set()),
    ],
)
def test_shapes_are_found(shelf: Shelf, text: str, found: set[str]) -> None:
    write(shelf, text)
    write(shelf, "", "lab.py")
    assert in_shapes(shelf, "l01_demo") == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# $Y \\odot \\sigma(X W_g + b)$ costs $O(T)$\n", {"Y", "sigma", "X", "W", "T"}),
        ("# $$x = \\text{No Words} \\in \\mathbb{R}^{16}, \\qquad\n# \\Delta \\le \\log n$$\n", {"Delta"}),
        ("A = 1\n# $q = x W_Q$\n", {"W"}),
    ],
)
def test_symbols_of_formulas_are_found(shelf: Shelf, text: str, found: set[str]) -> None:
    write(shelf, text)
    assert in_formulas(shelf, "l01_demo") == found


def test_the_table_shows_greek_letters_and_lessons() -> None:
    html = symbol_table()._repr_html_()
    assert "β" in html
    assert "08, 13" in html
    assert "λ" in html
    assert "price of compute, in nats of loss" in html
