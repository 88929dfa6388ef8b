"""Which program of a kernel reads and writes which element: memory as a grid of cells."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import groupby

import numpy as np
import pandas as pd
import xarray as xr

from gatescope.errors import Refusal
from gatescope.views.select import context, labels, variable
from gatescope.views.style import INK, NOTE_SIZE, RULE, SOFT_INK, STRONG, Html, card, category

_DIMS = ("program", "cell")
_COORDS = ("tensor", "row", "column", "inside", "bytes")
#: What is counted -> who did it first, and how many did.
_WHO = {"reads": ("reader", "readers"), "writes": ("writer", "writers")}
#: Colours that stay apart when they are pale.
_COLOURS = 6
#: Pixels of a cell, at least and at most, and of a grid; cells outside are drawn so far from their tensor.
_SMALL, _LARGE, _WIDE, _MARGIN = 5, 18, 300, 4


def access_map_frame(ds: xr.Dataset) -> pd.DataFrame:
    """A row an element: tensor, row, column, inside, bytes, reads and writes (how often), reader and writer (the first
    program that did, "" for none), readers and writers (how many programs).

    Raises Refusal without reads(program, cell) and writes(program, cell), and without the coordinates tensor, row,
    column, inside and bytes along cell.
    """
    counts = {name: variable(ds, name, "access_map", _DIMS) for name in _WHO}
    if missing := [name for name in _COORDS if name not in ds.coords]:
        wanted = f"coordinates {', '.join(_COORDS)} along cell"
        raise Refusal("access_map", wanted, f"none of the name {', '.join(missing)}", "say where each cell lies")
    frame = pd.DataFrame({name: ds[name].values for name in _COORDS})
    programs = np.array([str(label) for label in labels(ds, "program")])
    for name, data in counts.items():
        touched = data.values > 0
        frame[name] = data.values.sum(0)
        first, many = _WHO[name]
        frame[first], frame[many] = np.where(touched.any(0), programs[touched.argmax(0)], ""), touched.sum(0)
    return frame


def access_map(ds: xr.Dataset, program: int | None = None) -> Html:
    """Every tensor as a grid, reads and writes apart, an element in the colour of the first program that touched it,
    whose number stands where it begins. Hatched cells belong to no tensor; a strong edge marks an element that is
    written more than once.

    program  place of one program: the others are pale

    Raises Refusal as `access_map_frame` does, and for a program that is not there.
    """
    frame, count = access_map_frame(ds), ds.sizes["program"]
    if program is not None and not 0 <= program < count:
        raise Refusal("access_map", f"a program from 0 to {count - 1}", str(program), "choose one of them")
    moved = {name: int((frame[f"{name}s"] * frame["bytes"]).sum()) for name in ("read", "write")}
    title = f"{moved['read']:,} bytes read, {moved['write']:,} written by {count} program{'s' if count > 1 else ''}"
    parts = ds if program is None else ds.isel(program=[program])
    shown = access_map_frame(parts) if program is not None else frame
    grids = "".join(_grids(frame, shown, labels(ds, "program")))
    body = f'<div style="display:flex;flex-wrap:wrap;gap:14px 28px;align-items:flex-start">{grids}</div>'
    return card(title, [*_findings(frame), *context(ds, "reads")], body, "gs-access-map")


def _findings(frame: pd.DataFrame) -> Iterator[str]:
    for kind, done in (("reads", "read"), ("writes", "written")):
        outside = frame[(frame[kind] > 0) & ~frame["inside"]]
        for name, cells in outside.groupby("tensor", sort=False):
            yield f"{_elements(len(cells))} {done} around {name}, outside every tensor (hatched)"
    twice = frame[frame["inside"] & (frame["writes"] > 1)]
    for name, cells in twice.groupby("tensor", sort=False):
        yield f"{_elements(len(cells))} of {name} written more than once (strong edge)"
    for name, cells in frame[frame["inside"]].groupby("tensor", sort=False):
        idle = int(((cells["reads"] == 0) & (cells["writes"] == 0)).sum())
        if idle:
            yield f"{_elements(idle)} of {name} never touched (white)"


def _elements(count: int) -> str:
    return f"{count} element{'' if count == 1 else 's'}"


def _grids(frame: pd.DataFrame, shown: pd.DataFrame, programs: list[str]) -> Iterator[str]:
    order = {str(label): place for place, label in enumerate(programs)}
    for name, cells in frame.groupby("tensor", sort=False):
        inside = cells[cells["inside"]]
        height, width = int(inside["row"].max()) + 1, int(inside["column"].max()) + 1
        near = cells["row"].between(-_MARGIN, height - 1 + _MARGIN) & cells["column"].between(
            -_MARGIN, width - 1 + _MARGIN
        )
        for kind, (who, _) in _WHO.items():
            if cells[kind].any():
                drawn = cells[near & (cells["inside"] | (cells[kind] > 0))]
                lit = shown.loc[drawn.index, kind] > 0
                yield _grid(f"{name}, {kind[:-1]}", drawn, kind, who, lit, (height, width), order)


def _grid(
    title: str, cells: pd.DataFrame, kind: str, who: str, lit: pd.Series, size: tuple[int, int], order: dict[str, int]
) -> str:
    """One tensor as an SVG; neighbours in a row that look alike are one rectangle."""
    top, left = min(0, int(cells["row"].min())), min(0, int(cells["column"].min()))
    rows, columns = int(cells["row"].max()) + 1 - top, int(cells["column"].max()) + 1 - left
    side = min(_LARGE, max(_SMALL, _WIDE // columns))
    named: set[str] = set()
    parts: list[str] = []
    looks = zip(cells["row"], cells["column"], cells[who], cells[kind], cells["inside"], lit, strict=True)
    for (row, _), line in groupby(sorted(looks), key=lambda look: (look[0], None)):
        for look, run in groupby(enumerate(line), key=lambda pair: (pair[1][1] - pair[0], *pair[1][2:])):
            alike = list(run)
            first, (_, program, times, inside, bright) = alike[0][1][1], look
            place = (row - top, first - left)
            parts.append(_run(place, len(alike), side, (program, times, inside, bright), kind, order))
            if program and program not in named and side >= 10:
                named.add(program)
                parts.append(_text((first - left + 0.5) * side, (row - top + 0.72) * side, program.split()[-1], side))
    lines = "".join(f"M{x * side} 0V{rows * side}" for x in range(columns + 1)) + "".join(
        f"M0 {y * side}H{columns * side}" for y in range(rows + 1)
    )
    edge = f'<rect x="{-left * side}" y="{-top * side}" width="{size[1] * side}" height="{size[0] * side}"'
    svg = (
        f'<svg width="{columns * side + 2}" height="{rows * side + 2}" viewBox="-1 -1 {columns * side + 2} '
        f'{rows * side + 2}" aria-hidden="true">{_HATCH}{"".join(parts)}<path d="{lines}" stroke="{RULE}" '
        f'stroke-width="0.5" fill="none"/>{edge} fill="none" stroke="{INK}" stroke-width="1.5"/></svg>'
    )
    label = f'<div style="font-size:{NOTE_SIZE}px;color:{SOFT_INK}">{escape(title)} [{size[0]} x {size[1]}]</div>'
    return f"<div>{label}{svg}</div>"


_HATCH = (
    '<defs><pattern id="gs-outside" width="4" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    f'<rect width="2" height="4" fill="{INK}"/></pattern></defs>'
)


def _run(
    place: tuple[int, int], length: int, side: int, look: tuple[str, int, bool, bool], kind: str, order: dict[str, int]
) -> str:
    (row, column), (program, times, inside, bright) = place, look
    if not times:
        return ""
    box = f'x="{column * side}" y="{row * side}" width="{length * side}" height="{side}"'
    colour, tip = category(order[program] % _COLOURS), f"program {program}: {times} {kind} in all"
    twice = f' stroke="{STRONG}" stroke-width="2"' if kind == "writes" and times > 1 else ""
    paint = f'fill="{colour}" fill-opacity="{0.6 if bright else 0.12}"{twice}'
    found = f"<rect {box} {paint}><title>{escape(tip)}</title></rect>"
    if not inside:
        found += f'<rect {box} fill="url(#gs-outside)" fill-opacity="0.6"/>'
    if times > 1 and kind == "reads" and length * side >= 40:
        found += _text((column + length / 2) * side, (row + 0.72) * side, f"x{times}", side)
    return found


def _text(x: float, y: float, text: str, side: int) -> str:
    size = max(6, min(10, side * 0.62))
    return f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="middle" fill="{INK}">{escape(text)}</text>'
