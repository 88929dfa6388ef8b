"""Figures to hover over: plotly, with the house style."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
import xarray as xr

from gatescope.dims import axis_label
from gatescope.views.select import context, extreme, labels, long_frame, quantity, variable
from gatescope.views.style import (
    FONT,
    INK,
    LABEL_SIZE,
    NOTE_SIZE,
    PAPER,
    RULE,
    SEQUENTIAL,
    SOFT_INK,
    TITLE_SIZE,
    number,
)

_WRAP, _TITLE_WRAP, _AXIS_WRAP = 120, 80, 28
#: Buttons that would cover the title; dragging zooms and a double click goes back without them.
_NO_BUTTONS = [
    "zoom",
    "pan",
    "select",
    "lasso2d",
    "zoomIn2d",
    "zoomOut2d",
    "autoScale2d",
    "resetScale2d",
    "zoom3d",
    "pan3d",
    "orbitRotation",
    "tableRotation",
    "resetCameraLastSave3d",
]


def heat_trace(
    z: Any, x: Sequence[Any], y: Sequence[Any], *, bar: str, hover: str, top: float | None = 1.0, **more: Any
) -> go.Heatmap:
    """Cells on the sequential scale from 0 to ``top`` (None: to the largest), a gap between them, NaN left white.

    bar, hover  label of the colour bar, and what a cell says (plotly's templates)
    """
    settings = {
        "zmin": 0.0,
        "zmax": top,
        "colorscale": SEQUENTIAL,
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "colorbar": {"title": {"text": bar, "side": "right"}, "thickness": 16},
        "hovertemplate": f"{hover}<extra></extra>",
    }
    return go.Heatmap(z=z, x=x, y=y, **settings | more)


def hover_figure(
    traces: Sequence[Any], *, title: str, context: Sequence[str], height: int = 460, **layout: Any
) -> go.Figure:
    """A figure with a title that states the finding, the context under it, and both as its alt text."""
    lines = [part for line in context for part in textwrap.wrap(line, _WRAP)]
    heading = textwrap.wrap(title, _TITLE_WRAP)
    above = 23 * (len(lines) + len(heading))
    # Not title.subtitle: plotly places that by measuring, which fails where a figure is drawn before it is visible.
    notes = [f'<span style="font-size:{NOTE_SIZE}px;color:{SOFT_INK}">{escape(line)}</span>' for line in lines]
    figure = go.Figure(list(traces))
    figure.update_layout(
        template="simple_white",
        title={
            "text": "<br>".join([f"<b>{'<br>'.join(map(escape, heading))}</b>", *notes]),
            "font": {"size": TITLE_SIZE},
            "x": 0,
            "xanchor": "left",
            "xref": "paper",
            "y": 1,
            "yanchor": "top",
            "yref": "container",
            # plotly lowers a single line by its height, and the first of several lines not at all.
            "pad": {"t": 14 if len(heading) + len(lines) == 1 else 14 + round(0.7 * TITLE_SIZE)},
        },
        font={"family": FONT, "size": LABEL_SIZE, "color": INK},
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        autosize=True,
        uirevision="kept",  # zoom and camera stay when a control changes the numbers
        height=height + above,
        modebar={"remove": _NO_BUTTONS},
        margin={"l": 90, "r": 30, "t": 40 + above, "b": 60},
        hoverlabel={"font": {"size": LABEL_SIZE}},
        meta={"alt_text": ". ".join([title, *context])},
    )
    figure.update_layout(**layout)
    if label := figure.layout.yaxis.title.text:
        figure.layout.yaxis.title.text = "<br>".join(textwrap.wrap(label, _AXIS_WRAP))
        figure.layout.yaxis.automargin = True
    return figure


def head_map(ds: xr.Dataset, name: str, view: str, title: str) -> go.Figure:
    """A variable over layer and head as a map on a fixed scale from 0 to 1; hovering names both and the value.

    ``title`` has places for {mean} and {largest}, which comes with where it stands.
    """
    data = variable(ds, name, view, ("layer", "head"))
    frame = long_frame(data)
    value, where = extreme(frame, name)
    what, layers, heads = quantity(data), labels(data, "layer"), labels(data, "head")
    trace = heat_trace(
        data.values,
        heads,
        layers,
        bar="<br>".join(textwrap.wrap(what, 24)),
        hover=f"{axis_label('layer')} %{{y}}, {axis_label('head')} %{{x}}<br>{what} %{{z:.3f}}",
    )
    return hover_figure(
        [trace],
        title=title.format(mean=number(frame[name].mean()), largest=f"{value} ({where})"),
        context=context(ds, name),
        height=min(max(15 * len(layers), 190), 600) + 60,
        xaxis={"title": axis_label("head"), **whole_ticks(heads)},
        yaxis={"title": axis_label("layer"), **whole_ticks(layers)},
    )


def whole_ticks(values: Sequence[Any]) -> dict[str, Any]:
    """Ticks at whole numbers only, at most about twenty."""
    step = max(1, -(-len(values) // 20))
    return {"tick0": values[0], "dtick": step, "showgrid": False, "linecolor": RULE}
