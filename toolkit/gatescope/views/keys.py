"""Attention seen from the keys: how much every token receives."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.views.select import context, extreme, long_frame, pieces, quantity, variable
from gatescope.views.style import COMPARED, STRONG

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def key_mass_bars_frame(ds: xr.Dataset, layer: int | None = None, head: int | None = None) -> pd.DataFrame:
    """Columns token, piece, key_mass. Without ``layer`` or ``head`` the mean over all of them.

    Raises Refusal without key_mass(layer, head, token), KeyError for a layer or head that is not in the record.
    """
    data = variable(ds, "key_mass", "key_mass_bars", ("layer", "head", "token"))
    for dim, label in (("layer", layer), ("head", head)):
        data = data.mean(dim) if label is None else data.sel({dim: label})
    frame = long_frame(data, "key_mass")
    frame.insert(1, "piece", pieces(ds, frame["token"].tolist()))
    return frame


def key_mass_bars(ds: xr.Dataset, layer: int | None = None, head: int | None = None) -> Figure:
    """Attention each token receives per row that can see it, as bars; hovering shows the token.

    Raises Refusal without key_mass(layer, head, token).
    """
    import plotly.graph_objects as go

    from gatescope.views.hover import hover_figure, whole_ticks

    frame = key_mass_bars_frame(ds, layer, head)
    value, where = extreme(frame, "key_mass")
    which = ", ".join(
        f"{dim} {label}" if label is not None else f"mean over {dim}s"
        for dim, label in (("layer", layer), ("head", head))
    )
    bars = go.Bar(
        x=frame["token"],
        y=frame["key_mass"],
        marker={"color": [STRONG if mass == frame["key_mass"].max() else COMPARED for mass in frame["key_mass"]]},
        customdata=[escape(repr(piece)) for piece in frame["piece"]],
        hovertemplate="position %{x}: %{customdata}<br>receives %{y:.3f}<extra></extra>",
    )
    return hover_figure(
        [bars],
        title=f"The most attended token receives {value} ({where})",
        context=[which, *context(ds, "key_mass")],
        height=340,
        xaxis={"title": axis_label("key"), **whole_ticks(frame["token"].tolist())},
        yaxis={"title": quantity(ds["key_mass"]), "rangemode": "tozero"},
    )
