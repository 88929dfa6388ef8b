"""The shelf as a map: which lesson builds on which, how long it takes, and how far this learner is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Literal

from gatescope.errors import Refusal
from gatescope.views.style import COMPARED, FAINT, FONT, INK, NOTE_SIZE, PAPER, RULE, SOFT_INK, Html

from gatescope_lessons.lesson_kit import Shelf, number
from gatescope_lessons.progress import Progress, next_lesson, progress

_WIDTH, _HEIGHT, _ACROSS, _DOWN = 224, 98, 48, 12
_DONE, _BEGUN = "#009E73", "#E69F00"


def course_map(
    shelf: Shelf | None = None, found: Sequence[Progress] | None = None, *, leads_to: Literal["ipynb", "html"] = "ipynb"
) -> Html:
    """Cards of all lessons, left to right as they build on each other, each with a link, and where to go on.

    leads_to  the learner's notebooks, or pages to read, which know of no progress

    Raises Refusal when a lesson names one before it that there is not, or when two wait for each other.
    """
    found = progress(shelf) if found is None else list(found)
    lessons = {number(each.folder): each for each in found if number(each.folder)}
    places = places_of({n: list(each.lesson.after) for n, each in lessons.items()})
    goal = next_lesson(list(lessons.values())) if leads_to == "ipynb" else None
    done_with_all = "" if leads_to == "html" else "You have finished every lesson."
    where = done_with_all if goal is None else f"Go on here: {_name(goal)}"
    columns = 1 + max((column for column, _ in places.values()), default=0)
    rows = 1 + max((row for _, row in places.values()), default=0)
    width, height = columns * (_WIDTH + _ACROSS) - _ACROSS, rows * (_HEIGHT + _DOWN) - _DOWN
    arrows = "".join(_arrow(places[parent], places[n]) for n, each in lessons.items() for parent in each.lesson.after)
    cards = "".join(_card(each, places[n], each is goal, leads_to) for n, each in lessons.items())
    html = (
        f'<nav class="gs-course-map" aria-label="Map of the lessons" style="overflow-x:auto;background:{PAPER};'
        f'padding:12px;font-family:{escape(FONT)}"><div style="position:relative;width:{width}px;height:{height}px">'
        f'<svg width="{width}" height="{height}" aria-hidden="true" style="position:absolute">{arrows}</svg>'
        f"{cards}</div>"
        f'<p style="margin:12px 0 0;color:{INK};font-size:14px">{escape(where)}</p></nav>'
    )
    done = sum(each.finished for each in lessons.values())
    return Html(html, f"Map of {len(lessons)} lessons, {done} finished. {where}".strip())


def places_of(after: dict[int, list[int]]) -> dict[int, tuple[int, int]]:
    """Column and row of every lesson: a column right of all it builds on, beside or below the first of them.

    Raises Refusal for a lesson that is not there and for a circle.
    """
    columns: dict[int, int] = {}

    def column(n: int, waiting: tuple[int, ...]) -> int:
        if n in waiting:
            circle = " after ".join(f"{each:02d}" for each in (*waiting[waiting.index(n) :], n))
            raise Refusal("course_map", "lessons without a circle", circle, "drop one from Lesson.after")
        for parent in after[n]:
            if parent not in after:
                known = ", ".join(f"{each:02d}" for each in after)
                raise Refusal("course_map", f"Lesson.after among {known}", f"{parent:02d} in {n:02d}", "correct it")
        if n not in columns:
            columns[n] = 1 + max((column(parent, (*waiting, n)) for parent in after[n]), default=-1)
        return columns[n]

    for n in after:
        column(n, ())
    rows: dict[int, int] = {}

    def settle(n: int, row: int) -> int:
        """Give ``n`` its row and its followers theirs; returns the first row that is free."""
        rows[n] = row
        followers = sorted(m for m, parents in after.items() if parents and parents[0] == n)
        for follower in followers:
            row = settle(follower, row)
        return row if followers else row + 1

    free = 0
    for n in sorted(n for n, parents in after.items() if not parents):
        free = settle(n, free)
    return {n: (columns[n], rows[n]) for n in after}


def _corner(place: tuple[int, int]) -> tuple[int, int]:
    return place[0] * (_WIDTH + _ACROSS), place[1] * (_HEIGHT + _DOWN)


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    (x0, y0), (x1, y1) = _corner(start), _corner(end)
    x0, y0, y1, turn = x0 + _WIDTH, y0 + _HEIGHT // 2, y1 + _HEIGHT // 2, x1 - _ACROSS // 2
    line = f'<path d="M{x0} {y0}H{turn}V{y1}H{x1 - 6}" fill="none" stroke="{FAINT}" stroke-width="1.5"/>'
    return f'{line}<path d="M{x1} {y1}l-7 -4v8z" fill="{FAINT}"/>'


def _card(each: Progress, place: tuple[int, int], goal: bool, leads_to: str) -> str:
    x, y = _corner(place)
    edge = _DONE if each.finished else _BEGUN if each.begun else RULE
    lines = [f"{each.lesson.minutes} min · {each.lesson.difficulty}", *(_outcomes(each) if leads_to == "ipynb" else ())]
    small = "".join(f"<div>{escape(line)}</div>" for line in lines)
    border = f"border:{2 if goal else 1}px solid {INK if goal else RULE};border-left:6px solid {edge}"
    style = (
        f"position:absolute;box-sizing:border-box;left:{x}px;top:{y}px;width:{_WIDTH}px;height:{_HEIGHT}px;"
        f"padding:6px 10px;border-radius:4px;background:{PAPER};{border}"
    )
    # The colour of links in a dark theme is made for dark paper.
    bold = f"display:block;font-weight:bold;font-size:14px;line-height:1.25;color:{COMPARED}"
    link = f'<a href="{escape(each.folder[1:])}.{leads_to}" style="{bold}">{escape(_name(each))}</a>'
    note = f'<div style="color:{SOFT_INK};font-size:{NOTE_SIZE}px;line-height:1.35;margin-top:2px">{small}</div>'
    return f'<div class="gs-course-card" style="{style}">{link}{note}</div>'


def _outcomes(each: Progress) -> Iterator[str]:
    (passed, exercises), (made, predictions) = each.count("exercise"), each.count("prediction")
    mark = "✔ finished: " if each.finished else ""
    yield f"{mark}{passed} of {exercises} exercises, {made} of {predictions} predictions"


def _name(each: Progress) -> str:
    return f"{number(each.folder)}. {each.lesson.title}"
