"""Massive activations in three dimensions: token, hidden dimension, magnitude."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.errors import Refusal
from gatescope.views.select import context, extreme, labels, long_frame, pieces, variable
from gatescope.views.style import COMPARED, FAINT, RULE, STRONG, number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_DIMS, _TOKENS = 10, 40


def massive_3d_frame(ds: xr.Dataset, layer: int | None = None) -> pd.DataFrame:
    """The spikes drawn: columns token, piece, dim, magnitude, top. At most 10 dims and 40 tokens.

    The dims are the four with the largest value (``top``) and their nearest neighbours; the tokens are those with the
    largest values, then the first ones. Without ``layer`` the one that holds the largest value.
    Raises Refusal without magnitude(layer, token, dim), KeyError for a layer that is not in the record.
    """
    data = _layer(ds, layer)
    by_dim = long_frame(data.max("token"), "peak").sort_values("peak", ascending=False, kind="stable")["dim"].tolist()
    top = by_dim[:4]
    near = sorted(set(by_dim) - set(top), key=lambda dim: (min(abs(dim - peak) for peak in top), dim))
    dims = sorted([*top, *near[: _DIMS - len(top)]])
    by_token = long_frame(data.max("dim"), "peak").sort_values("peak", ascending=False, kind="stable")["token"].tolist()
    tokens = sorted(list(dict.fromkeys([*by_token[:8], *labels(data, "token")]))[:_TOKENS])
    frame = long_frame(data.sel(token=tokens, dim=dims), "magnitude")
    frame.insert(1, "piece", pieces(ds, frame["token"].tolist()))
    return frame.assign(top=frame["dim"].isin(top))


def massive_3d(ds: xr.Dataset, layer: int | None = None, scale: str = "log") -> Figure:
    """|h| of one layer as spikes over tokens and hidden dimensions; the four largest dims are coloured.

    ``scale`` of the height: "log" or "linear"; the axis says which. Raises Refusal for another scale and without
    magnitude(layer, token, dim).
    """
    import plotly.graph_objects as go

    from gatescope.views.hover import hover_figure

    if scale not in ("linear", "log"):
        raise Refusal("massive_3d", "scale 'linear' or 'log'", repr(scale), "pass one of the two")
    data = _layer(ds, layer)
    frame = massive_3d_frame(ds, layer)
    value, where = extreme(frame, "magnitude")
    median = float(data.median())
    floor = 0.0 if scale == "linear" else median
    order = {dim: row for row, dim in enumerate(sorted(frame["dim"].unique().tolist()))}
    seat = {token: place for place, token in enumerate(frame["token"].unique().tolist())}
    peak = frame.loc[frame["magnitude"].idxmax(), "dim"]
    traces = [
        _spikes(
            go, rows, seat, order[dim], floor, STRONG if dim == peak else COMPARED if rows["top"].iloc[0] else FAINT
        )
        for dim, rows in frame.groupby("dim")
    ]
    drawn = (
        f"{frame['token'].nunique()} of {data.sizes['token']} tokens and {len(order)} of {data.sizes['dim']} "
        f"dimensions drawn; {scale} height from {number(floor)}; median |h| of the layer {number(median)}"
    )
    small = {"tickfont": {"size": 11}, "showbackground": False, "gridcolor": RULE}
    return hover_figure(
        traces,
        title=f"Layer {data['layer'].item()}: largest |h| {value} ({where})",
        context=[drawn, *context(ds, "magnitude")],
        height=520,
        showlegend=False,
        margin={"l": 10, "r": 10, "b": 10},
        scene={
            "xaxis": {
                "title": axis_label("token"),
                "tickvals": list(seat.values())[:: max(1, len(seat) // 8)],
                "ticktext": [str(token) for token in seat][:: max(1, len(seat) // 8)],
                **small,
            },
            "yaxis": {
                "title": axis_label("dim"),
                "tickvals": list(order.values()),
                "ticktext": [str(dim) for dim in order],
                **small,
            },
            "zaxis": {"title": f"|h| ({scale})", "type": scale, **({"dtick": 1} if scale == "log" else {}), **small},
            "camera": {"eye": {"x": -0.9, "y": -1.5, "z": 0.55}, "center": {"x": 0, "y": 0, "z": -0.27}},
            "aspectratio": {"x": 1.6, "y": 1.0, "z": 0.8},
        },
    )


def _layer(ds: xr.Dataset, layer: int | None) -> xr.DataArray:
    data = variable(ds, "magnitude", "massive_3d", ("layer", "token", "dim"))
    data = data.assign_coords({dim: labels(data, str(dim)) for dim in data.dims})
    if layer is None:
        layer = data["layer"].values[data.max(("token", "dim")).values.argmax()]
    return data.sel(layer=layer)


def _spikes(go, rows: pd.DataFrame, seat: dict[int, int], place: int, floor: float, colour: str):  # type: ignore[no-untyped-def]
    """One trace a dim: from the floor to the value and back at every token, so that a thousand spikes stay cheap."""
    xs, zs, texts = [], [], []
    for row in rows.itertuples():
        text = f"token {row.token} {escape(repr(row.piece))}, dimension {row.dim}<br>|h| {number(row.magnitude)}"
        xs += [seat[row.token], seat[row.token], None]
        zs += [floor, max(row.magnitude, floor), None]
        texts += [text, text, ""]
    return go.Scatter3d(
        x=xs,
        y=[place] * len(xs),
        z=zs,
        mode="lines",
        line={"color": colour, "width": 6 if colour != FAINT else 3},
        hovertext=texts,
        hoverinfo="text",
    )
