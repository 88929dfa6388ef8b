"""Where attention sinks: the share that goes to the first token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from gatescope.views.select import long_frame, variable

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def sink_heatmap_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns layer, head, first_attention (a share of 1). Raises Refusal without first_attention(layer, head)."""
    return long_frame(variable(ds, "first_attention", "sink_heatmap", ("layer", "head")))


def sink_heatmap(ds: xr.Dataset) -> Figure:
    """Attention to the first token as a map of layer by head, on a fixed scale from 0 to 1.

    Raises Refusal without first_attention(layer, head).
    """
    from gatescope.views.hover import head_map

    return head_map(
        ds, "first_attention", "sink_heatmap", "Attention to the first token: mean {mean}, largest {largest}"
    )
