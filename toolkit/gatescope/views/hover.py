"""Figures to hover over: plotly, with the house style."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from gatescope.dims import axis_label
from gatescope.views.style import FONT, INK, LABEL_SIZE, NOTE_SIZE, PAPER, RULE, SEQUENTIAL, SOFT_INK, TITLE_SIZE

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
            "pad": {"t": 14},
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


def map_figure(
    values: Any,
    *,
    x: tuple[str, Sequence[Any]],
    y: tuple[str, Sequence[Any]],
    quantity: str,
    title: str,
    context: Sequence[str],
    span: tuple[float, float] | None = None,
) -> go.Figure:
    """A heat map over two record dims, ``x`` and ``y`` given as (dim, labels); hovering names both and the value."""
    trace = go.Heatmap(
        z=values,
        x=list(x[1]),
        y=list(y[1]),
        zmin=span[0] if span else None,
        zmax=span[1] if span else None,
        colorscale=SEQUENTIAL,
        xgap=1,
        ygap=1,
        colorbar={"title": {"text": "<br>".join(textwrap.wrap(quantity, 24)), "side": "right"}, "thickness": 16},
        hovertemplate=f"{axis_label(y[0])} %{{y}}, {axis_label(x[0])} %{{x}}<br>{quantity} %{{z:.3f}}<extra></extra>",
    )
    axes = {
        "xaxis": {"title": axis_label(x[0]), **whole_ticks(x[1])},
        "yaxis": {"title": axis_label(y[0]), **whole_ticks(y[1])},
    }
    height = min(max(15 * len(y[1]), 190), 600) + 60
    return hover_figure([trace], title=title, context=context, height=height, **axes)


def whole_ticks(values: Sequence[Any]) -> dict[str, Any]:
    """Ticks at whole numbers only, at most about twenty."""
    step = max(1, -(-len(values) // 20))
    return {"tick0": values[0], "dtick": step, "showgrid": False, "linecolor": RULE}
