"""The page of two records."""

from __future__ import annotations

import textwrap
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from gatescope.dims import axis_label
from gatescope.records import Pair, differences, renamings
from gatescope.report.page import figure, finding, page, table
from gatescope.views.differences import Sides, sides
from gatescope.views.style import COMPARED, INK, SEQUENTIAL, STRONG, number

if TYPE_CHECKING:
    from gatescope.views.still import Still

#: Variables drawn, those of the largest effect.
DRAWN = 8
_NAMED = 5


def compare_page(pair: Pair) -> str:
    """HTML: what differs most in words, what cannot be compared, the table of all variables, figures of the largest
    effects, and where both records come from."""
    first, second = pair.labels
    frame = differences(pair)
    said = finding(*_largest(frame, first, second), frame.head(_NAMED))
    if doubts := [*pair.notes, *pair.unmatched]:
        said += finding("Before you trust a difference", [f"{doubt}." for doubt in doubts])
    moved = renamings(pair)
    tables = table(_named(frame, first, second))
    if len(moved):
        tables += f"<h3>Places whose names differ</h3>{table(_named(moved, first, second))}"
    sections = [
        ("summary", "Summary", said),
        ("variables", "Every variable", tables),
        ("figures", f"Figures of the {min(DRAWN, len(frame))} largest effects", _figures(pair, frame)),
        ("provenance", "Provenance", table(_provenance(pair))),
    ]
    intro = ["Effect: the difference of the means over the pooled standard deviation over places (Cohen's d)."]
    return page(f"{first} and {second} compared", intro, sections)


def _largest(frame: pd.DataFrame, first: str, second: str) -> tuple[str, list[str]]:
    differ = frame[(frame["difference"] != 0) | (frame["largest"].fillna(0) != 0)]
    if differ.empty:
        return "No difference", [f"All {len(frame)} variables agree wherever both hold a number."]
    sentences = [
        f"{row.variable}: {number(row.mean_a)} in {first}, {number(row.mean_b)} in {second} on average"
        + (f"; most at {row.where}, {number(row.there_a)} against {number(row.there_b)}." if row.where else ".")
        for row in differ.head(_NAMED).itertuples()
    ]
    return f"{len(differ)} of {len(frame)} variables differ", sentences


def _named(frame: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    said = {
        "mean_a": f"mean {first}",
        "mean_b": f"mean {second}",
        "there_a": f"{first} there",
        "there_b": f"{second} there",
    }
    return frame.rename(columns=said)


def _figures(pair: Pair, frame: pd.DataFrame) -> str:
    html = []
    for index, name in enumerate(frame["variable"].head(DRAWN)):
        drawn = sides(pair.record, name)
        html.append(f"<h3>{escape(name)}</h3>{figure(still_of(drawn), f'difference-{index}', drawn.frame())}")
    return "".join(html)


def still_of(drawn: Sides) -> Still:
    """A, B and B - A beside or below each other, as `views.difference_map` draws them, without hovering."""
    return (_bars, _lines, _maps)[len(drawn.dims)](drawn)


def _maps(drawn: Sides) -> Still:
    from gatescope.views.still import draw_map, signed_map, stills

    signed = signed_map()
    y, x = drawn.dims
    rows, columns, height = (3, 1, 8.4) if drawn.wide else (1, 3, 4.4)
    grid = stills(drawn.title, drawn.context, rows=rows, columns=columns, height=height, sharey=True)
    with grid as (made, cells):
        for axes, (heading, data) in zip(cells, drawn.parts, strict=True):
            is_difference = data is drawn.difference
            low, high = (-drawn.span, drawn.span) if is_difference else (drawn.low, drawn.high)
            image = draw_map(axes, data, low, high, signed if is_difference else SEQUENTIAL)
            axes.set_title(heading, loc="left", fontsize=10, parse_math=False)
            axes.set_xlabel(axis_label(x))
            made.colorbar(image, ax=axes, orientation="vertical" if drawn.wide else "horizontal", pad=0.02)
        cells[0].set_ylabel(axis_label(y))
    return made


def _lines(drawn: Sides) -> Still:
    from gatescope.views.still import places, stills

    (x,) = drawn.dims
    with stills(drawn.title, drawn.context, rows=2, columns=1, height=5.4) as (made, (above, below)):
        at = places(drawn.a, x)
        for data, heading, colour, mark in (
            (drawn.a, drawn.names[0], COMPARED, "o-"),
            (drawn.b, drawn.names[1], STRONG, "s--"),
        ):
            above.plot(at, data.values, mark, ms=4, lw=1.2, color=colour, label=heading)
        above.set_ylabel(textwrap.fill(drawn.what, 20))
        above.legend(loc="best")
        below.bar(at, np.nan_to_num(drawn.difference.values), color=INK)
        below.set_ylabel("difference")
        below.set_xlabel(axis_label(x))
    return made


def _bars(drawn: Sides) -> Still:
    from gatescope.views.still import still

    with still(drawn.title, drawn.context, height=2.6) as (made, axes):
        names = [heading for heading, _ in drawn.parts]
        values = [float(data) for _, data in drawn.parts]
        axes.bar_label(
            axes.barh(names, values, color=[COMPARED, STRONG, INK]), labels=[number(v) for v in values], padding=4
        )
        axes.margins(x=0.15)
        axes.invert_yaxis()
        axes.set_xlabel(drawn.what)
    return made


def _provenance(pair: Pair) -> pd.DataFrame:
    first, second = pair.labels
    rows: dict[str, dict[str, str]] = {}
    for label in pair.labels:
        one = pair.record.sel(record=label)
        found = {**pair.record.attrs, **{str(name): one[name].item() for name in one.coords if one[name].ndim == 0}}
        for name, value in found.items():
            if name not in ("model_config", "record"):
                rows.setdefault(str(name), {})[label] = str(value)
    return pd.DataFrame(
        [(name, found.get(first, ""), found.get(second, "")) for name, found in sorted(rows.items())],
        columns=["what", first, second],
    )


__all__ = ["DRAWN", "compare_page", "still_of"]
