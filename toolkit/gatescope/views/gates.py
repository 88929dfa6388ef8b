"""Gate scores: how they are distributed in every head that has a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.views.select import context, labels, long_frame, variable
from gatescope.views.style import PAPER, STRONG, number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def gate_histogram_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns layer, gate_head, bin (centre of the bin), gate_histogram (share of scores), and gate_mean if recorded.

    Raises Refusal without gate_histogram(layer, gate_head, bin).
    """
    frame = long_frame(variable(ds, "gate_histogram", "gate_histogram", ("layer", "gate_head", "bin")))
    if "gate_mean" in ds:
        frame = frame.merge(long_frame(variable(ds, "gate_mean", "gate_histogram", ("layer", "gate_head"))))
    return frame


def gate_histogram(ds: xr.Dataset) -> Figure:
    """Distribution of gate scores: a row a layer and gate head, colour the share of scores in a bin, a dot the mean.

    Raises Refusal without gate_histogram(layer, gate_head, bin).
    """
    import plotly.graph_objects as go

    from gatescope.views.hover import heat_trace, hover_figure

    data = variable(ds, "gate_histogram", "gate_histogram", ("layer", "gate_head", "bin"))
    rows = [f"L{layer} H{head}" for layer in labels(data, "layer") for head in labels(data, "gate_head")]
    traces = [
        heat_trace(
            data.values.reshape(len(rows), -1),
            labels(data, "bin"),
            rows,
            top=None,
            xgap=0,
            ygap=2 if len(rows) <= 40 else 0,
            bar="share of scores",
            hover="%{y}<br>score about %{x:.2f}: %{z:.3f} of the scores",
        )
    ]
    title = "Gate scores"
    if "gate_mean" in ds:
        mean = variable(ds, "gate_mean", "gate_histogram", ("layer", "gate_head"))
        title = f"Gate scores: mean {number(float(mean.mean()))}, from {number(float(mean.min()))} to "
        title += f"{number(float(mean.max()))} by head"
        traces.append(
            go.Scatter(
                x=mean.values.ravel(),
                y=rows,
                mode="markers",
                marker={"color": STRONG, "size": 12, "line": {"color": PAPER, "width": 2}},
                hovertemplate="%{y}<br>mean score %{x:.3f}<extra></extra>",
            )
        )
    return hover_figure(
        traces,
        title=title,
        context=[
            "A row is a layer (L) and gate head (H); a dot its mean score"
            if "gate_mean" in ds
            else "A row is a layer (L) and gate head (H)",
            *context(ds, "gate_histogram"),
        ],
        height=min(max(26 * len(rows), 110), 620) + 70,
        showlegend=False,
        xaxis={"title": axis_label("bin"), "showgrid": False},
        yaxis={"title": f"{axis_label('layer')}, {axis_label('gate_head')}", "type": "category", "showgrid": False},
    )
