"""Where attention sinks: the share that goes to the first token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from gatescope.views.select import context, extreme, labels, long_frame, quantity, variable
from gatescope.views.style import number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def sink_heatmap_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns layer, head, first_attention (a share of 1). Raises Refusal without first_attention(layer, head)."""
    return long_frame(variable(ds, "first_attention", "sink_heatmap", ("layer", "head")))


def sink_heatmap(ds: xr.Dataset) -> Figure:
    """Attention to the first token as a map of layer by head, on a fixed scale from 0 to 1.

    Raises Refusal without first_attention(layer, head).
    """
    from gatescope.views.hover import map_figure

    data = variable(ds, "first_attention", "sink_heatmap", ("layer", "head"))
    frame = sink_heatmap_frame(ds)
    value, where = extreme(frame, "first_attention")
    mean = number(frame["first_attention"].mean())
    return map_figure(
        data.values,
        x=("head", labels(data, "head")),
        y=("layer", labels(data, "layer")),
        quantity=quantity(data),
        title=f"Attention to the first token: mean {mean}, largest {value} ({where})",
        context=context(ds, "first_attention"),
        span=(0.0, 1.0),
    )
