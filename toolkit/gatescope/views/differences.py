"""Two records on one variable: A, B and B - A on linked axes, A and B on one scale."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.errors import Refusal
from gatescope.records import NAMING, where
from gatescope.views.select import context, labels, long_frame, quantity, variable
from gatescope.views.style import COMPARED, DIVERGING, INK, RULE, SEQUENTIAL, STRONG, number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

#: Places along one axis; longer ones are averaged over neighbours to about so many.
_PLACES = 256
#: Maps wider than so many places stand below each other.
_BESIDE = 40
_VIEW = "difference_map"
#: Pixels below the maps: room for their axis and the colour bars, and where the bars begin.
_FOOT, _BELOW = 150, 68
#: A difference below this share of the larger value is one of rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Sides:
    """What is drawn of two records: ``a``, ``b`` and ``difference`` along no, one or two dims, with words for them.

    names      what the two are called
    what       the quantity with its unit
    low, high  limits of the scale that a and b share; the difference's runs from -span to span
    """

    a: xr.DataArray
    b: xr.DataArray
    difference: xr.DataArray
    names: tuple[str, str]
    what: str
    title: str
    context: list[str]
    low: float
    high: float
    span: float

    @property
    def dims(self) -> tuple[str, ...]:
        """Dims drawn: y and x of a map, x of lines."""
        return tuple(map(str, self.difference.dims))

    @property
    def parts(self) -> tuple[tuple[str, xr.DataArray], ...]:
        """The three with their headings."""
        first, second = self.names
        return ((first, self.a), (second, self.b), (f"{second} − {first}", self.difference))

    @property
    def wide(self) -> bool:
        """Maps too wide to stand beside each other: they stand below each other."""
        return self.a.sizes[self.dims[-1]] > _BESIDE

    def frame(self) -> pd.DataFrame:
        """Columns: the dims drawn, a, b and difference."""
        frame = long_frame(self.a, "a") if self.dims else pd.DataFrame({"a": [float(self.a)]})
        return frame.assign(b=self.b.values.ravel(), difference=self.difference.values.ravel())


def choices(ds: xr.Dataset, metric: str) -> list[tuple[str, ...]]:
    """Dims that `difference_map` can draw ``metric`` along: pairs, then single ones; () for one number."""
    dims = sorted((str(dim) for dim in ds[metric].dims if dim != "record"), key=lambda dim: dim != "layer")
    return [*combinations(dims, 2), *((dim,) for dim in dims)] or [()]


def difference_map_frame(ds: xr.Dataset, metric: str, along: tuple[str, ...] | None = None) -> pd.DataFrame:
    """Columns: the dims drawn, a, b and difference = b - a.

    along  one or two dims; the others are averaged over the places where both hold a finite number. The first of
           `choices` unless given

    Raises Refusal without the variable, without two records along ``record``, for a variable of names
    (`records.NAMING`), and for dims that it does not have.
    """
    return sides(ds, metric, along).frame()


def difference_map(ds: xr.Dataset, metric: str, along: tuple[str, ...] | None = None) -> Figure:
    """A, B and B - A: three maps along two dims, lines above bars along one, bars for a single number.

    Zooming one part zooms all. Raises Refusal as `difference_map_frame` does.
    """
    drawn = sides(ds, metric, along)
    return (_bars, _lines, _maps)[len(drawn.dims)](drawn)


def sides(ds: xr.Dataset, metric: str, along: tuple[str, ...] | None = None) -> Sides:
    """The numbers and words of `difference_map`, for other ways to draw them. Raises Refusal as it does."""
    data = variable(ds, metric, _VIEW)
    if ds.sizes.get("record") != 2 or "record" not in data.dims:
        got = f"{metric}({', '.join(map(str, data.dims))}), {ds.sizes.get('record', 0)} records"
        raise Refusal(_VIEW, f"{metric} of two records along record", got, "align them with records.pair(a, b).record")
    if metric in NAMING:
        raise Refusal(_VIEW, "a variable of amounts", f"{metric}, which holds names", "see records.renamings")
    along = choices(ds, metric)[0] if along is None else tuple(along)
    if along not in choices(ds, metric) and along[::-1] not in choices(ds, metric):
        known = ", ".join(" × ".join(choice) for choice in choices(ds, metric))
        raise Refusal(
            _VIEW, f"dims of {metric} to draw along: {known}", " × ".join(along) or "none", "choose one of them"
        )
    rest = [str(dim) for dim in data.dims if dim not in along and dim != "record"]
    a, b = (data.isel(record=side).astype("float64").drop_vars("record", errors="ignore") for side in (0, 1))
    both = np.isfinite(a) & np.isfinite(b)
    a, b = ((side.where(both).mean(rest) if rest else side.where(both)).transpose(*along) for side in (a, b))
    a, b, neighbours = _short(a, b)
    difference = _difference(a, b)
    first, second = map(str, labels(ds, "record"))
    words = [*_context(ds, metric, (first, second)), *([f"Mean over {', '.join(rest)}"] if rest else []), *neighbours]
    low, high = _limits(a, b)
    span = float(np.nanmax(np.abs(difference.values))) if difference.notnull().any() else 0.0
    return Sides(
        a=a.rename(metric),
        b=b.rename(metric),
        difference=difference.rename("difference"),
        names=(first, second),
        what=quantity(data),
        title=_finding(quantity(data), a, b, difference, (first, second)),
        context=words,
        low=low,
        high=high,
        span=span or 1.0,
    )


def _difference(a: xr.DataArray, b: xr.DataArray) -> xr.DataArray:
    """b - a, 0 where the means of many numbers differ by rounding alone."""
    gap = b - a
    return gap.where((np.abs(gap) > _ROUNDING * np.maximum(np.abs(a), np.abs(b))) | gap.isnull(), 0.0)


def _short(a: xr.DataArray, b: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray, list[str]]:
    """Both with at most about `_PLACES` places along each dim, and what was done to them."""
    words = []
    for dim in a.dims:
        width = -(-a.sizes[dim] // _PLACES)
        if width > 1 and (dim not in a.coords or a[dim].dtype.kind in "fiu"):
            a, b = (side.coarsen({dim: width}, boundary="pad").mean() for side in (a, b))
            words.append(f"Points are means over {width} neighbours along {dim}")
    return a, b, words


def _limits(a: xr.DataArray, b: xr.DataArray) -> tuple[float, float]:
    values = np.concatenate([a.values.ravel(), b.values.ravel()])
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    low = 0.0 if 0 < low < 0.5 * high else low
    return (low, high) if high - low > _ROUNDING * abs(high) else (low, low + 1.0)


def _context(ds: xr.Dataset, metric: str, names: tuple[str, str]) -> list[str]:
    """Lines under the title; what differs between the records is told for both."""
    told = {
        key: ", ".join(f"{value} ({name})" for value, name in zip(ds[key].values.tolist(), names, strict=True))
        for key in ("T", "n_samples", "bos")
        if key in ds.coords and ds[key].dims == ("record",)
    }
    return context(ds.drop_vars(list(told)).assign_attrs(told), metric)


def _finding(what: str, a: xr.DataArray, b: xr.DataArray, difference: xr.DataArray, names: tuple[str, str]) -> str:
    means = f"{number(float(a.mean()))} in {names[0]}, {number(float(b.mean()))} in {names[1]}"
    title = f"{what[:1].upper()}{what[1:]}: {means}" + (" on average" if a.ndim else "")
    size = np.abs(difference.values)
    if not a.ndim or not np.isfinite(size).any():
        return title
    at = int(np.nanargmax(size))
    if size.flat[at] == 0:
        return f"{title}; no difference anywhere"
    return f"{title}; largest difference {signed(difference.values.flat[at])} ({where(difference, at)})"


def signed(value: float) -> str:
    """A difference for a sentence, its sign always shown."""
    return f"+{number(value)}" if value > 0 else number(value).replace("-", "−")


def _maps(drawn: Sides) -> Figure:
    import plotly.graph_objects as go

    from gatescope.views.hover import hover_figure

    rows, columns = drawn.dims
    wide = drawn.wide
    places = [axis_label(dim) for dim in drawn.dims]
    traces: list[Any] = []
    layout: dict[str, Any] = {"annotations": []}
    for place, (heading, data) in enumerate(drawn.parts):
        suffix = str(place + 1) if place else ""
        across, down = ((0.0, 1.0), _third(2 - place, 0.07)) if wide else (_third(place, 0.04), (0.0, 1.0))
        hover = f"{places[0]} %{{y}}, {places[1]} %{{x}}<br>{escape(heading)}: %{{z:.4g}}<extra></extra>"
        traces.append(
            go.Heatmap(
                z=data.values,
                x=labels(data, columns),
                y=labels(data, rows),
                coloraxis="coloraxis2" if place == 2 else "coloraxis",
                xaxis=f"x{suffix}",
                yaxis=f"y{suffix}",
                hovertemplate=hover,
            )
        )
        edge, middle = place == (2 if wide else 0), place == 1
        layout[f"xaxis{suffix}"] = {
            **_ticks(data, columns, 20 if wide else 7),
            "domain": across,
            "anchor": f"y{suffix}",
            "title": places[1] if (edge if wide else middle) else "",
            "showticklabels": not wide or edge,
            **({"matches": "x"} if place else {}),
        }
        layout[f"yaxis{suffix}"] = {
            **_ticks(data, rows, 8 if wide else 20),
            "domain": down,
            "anchor": f"x{suffix}",
            "title": places[0] if wide or edge else "",
            "showticklabels": wide or edge,
            **({"matches": "y"} if place else {}),
        }
        layout["annotations"].append(
            {
                "text": f"<b>{escape(heading)}</b>",
                "showarrow": False,
                "xref": "paper",
                "yref": "paper",
                "x": across[0],
                "xanchor": "left",
                "y": down[1],
                "yanchor": "bottom",
            }
        )
    height = 560 if wide else min(max(15 * drawn.a.sizes[rows], 190), 560)
    below = -_BELOW / height
    return hover_figure(
        traces,
        title=drawn.title,
        context=drawn.context,
        height=height + 40 + _FOOT,
        coloraxis={
            "colorscale": SEQUENTIAL,
            "cmin": drawn.low,
            "cmax": drawn.high,
            "colorbar": _bar(0.0, 0.64, below, " and ".join(map(escape, drawn.names))),
        },
        coloraxis2={
            "colorscale": [[0.0, DIVERGING[0]], [0.5, DIVERGING[1]], [1.0, DIVERGING[2]]],
            "cmin": -drawn.span,
            "cmax": drawn.span,
            "colorbar": _bar(0.68, 0.32, below, "difference"),
        },
        margin={"b": _FOOT, "l": 70, "r": 20},
        **layout,
    )


def _lines(drawn: Sides) -> Figure:
    import plotly.graph_objects as go

    from gatescope.views.hover import hover_figure

    (dim,) = drawn.dims
    names = drawn.a[dim].dtype.kind not in "fiub" if dim in drawn.a.coords else False
    traces: list[Any] = []
    for (heading, data), colour, symbol in zip(drawn.parts[:2], (COMPARED, STRONG), ("circle", "square"), strict=True):
        traces.append(
            go.Scatter(
                x=labels(data, dim),
                y=data.values,
                mode="markers" if names else "lines+markers",
                name=escape(heading),
                marker={"color": colour, "symbol": symbol, "size": 7},
                line={"color": colour},
                hovertemplate=f"{axis_label(dim)} %{{x}}<br>{escape(heading)}: %{{y:.4g}}<extra></extra>",
            )
        )
    heading, data = drawn.parts[2]
    traces.append(
        go.Bar(
            x=labels(data, dim),
            y=data.values,
            yaxis="y2",
            showlegend=False,
            marker={"color": INK},
            hovertemplate=f"{axis_label(dim)} %{{x}}<br>{escape(heading)}: %{{y:.4g}}<extra></extra>",
        )
    )
    return hover_figure(
        traces,
        title=drawn.title,
        context=drawn.context,
        height=520,
        xaxis={"title": axis_label(dim), "anchor": "y2", **_ticks(drawn.a, dim, 20)},
        yaxis={"title": escape(drawn.what), "domain": (0.42, 1.0), "showgrid": True, "gridcolor": RULE},
        yaxis2={
            "title": escape(heading),
            "domain": (0.0, 0.34),
            "showgrid": True,
            "gridcolor": RULE,
            "zeroline": True,
            "zerolinecolor": INK,
            "automargin": True,
        },
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"},
    )


def _bars(drawn: Sides) -> Figure:
    import plotly.graph_objects as go

    from gatescope.views.hover import hover_figure

    headings = [escape(heading) for heading, _ in drawn.parts]
    values = [float(data) for _, data in drawn.parts]
    low, high = np.nanmin([*values, 0.0]), np.nanmax([*values, 0.0])
    room = 0.2 * (high - low or 1.0)  # for the numbers beside short bars
    trace = go.Bar(
        x=values,
        y=headings,
        orientation="h",
        marker={"color": [COMPARED, STRONG, INK]},
        text=[number(value) for value in values],
        textposition="outside",
        hovertemplate="%{y}: %{x:.4g}<extra></extra>",
    )
    return hover_figure(
        [trace],
        title=drawn.title,
        context=drawn.context,
        height=260,
        xaxis={"title": escape(drawn.what), "range": (low - room, high + room), "zeroline": True, "zerolinecolor": INK},
        yaxis={"autorange": "reversed"},
    )


def _third(place: int, gap: float) -> tuple[float, float]:
    width = (1.0 - 2 * gap) / 3
    return place * (width + gap), place * (width + gap) + width


def _ticks(data: xr.DataArray, dim: str, most: int) -> dict[str, Any]:
    values = labels(data, dim)
    plain = {"showgrid": False, "linecolor": RULE, "tickangle": 0}
    if not all(isinstance(value, int) for value in values):
        return plain
    return {**plain, "tick0": values[0], "dtick": max(1, -(-len(values) // most))}


def _bar(x: float, length: float, y: float, title: str) -> dict[str, Any]:
    return {
        "orientation": "h",
        "x": x,
        "xanchor": "left",
        "len": length,
        "y": y,
        "yanchor": "top",
        "ypad": 0,
        "thickness": 14,
        "nticks": 5,
        "title": {"text": title, "side": "top"},
    }
