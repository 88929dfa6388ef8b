"""Massive activations: which hidden values dwarf all others, and in which layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.errors import Refusal
from gatescope.views.select import context, long_frame, pieces, variable
from gatescope.views.style import COMPARED, STRONG, Html, card, number, table

if TYPE_CHECKING:
    from gatescope.views.still import Still


def massive_table_frame(ds: xr.Dataset, rows: int = 12, layer: int | None = None) -> pd.DataFrame:
    """The ``rows`` largest hidden values, of all layers or of one: layer, token, piece, dim, value, times_median.

    times_median is |value| over the median |h| of the same layer. Raises Refusal without top_value, top_token,
    top_dim (layer, rank) and magnitude_median(layer), and for a layer that is not in the record.
    """
    view = "massive_table"
    top = [variable(ds, name, view, ("layer", "rank")) for name in ("top_value", "top_token", "top_dim")]
    median = variable(ds, "magnitude_median", view, ("layer",)).rename("median")
    frame = long_frame(top[0], "value")
    for data, name in zip(top[1:], ("token", "dim"), strict=True):
        frame = frame.merge(long_frame(data, name).astype({name: int}), on=["layer", "rank"])
    frame = frame.merge(long_frame(median, "median"), on="layer")
    if layer is not None:
        if layer not in frame["layer"].values:
            raise Refusal(view, f"a layer of {sorted(set(frame['layer']))}", str(layer), "choose one of them")
        frame = frame[frame["layer"] == layer]
    frame = frame.sort_values("value", key=abs, ascending=False, kind="stable").head(rows)
    frame["times_median"] = frame["value"].abs() / frame["median"]
    frame["piece"] = pieces(ds, frame["token"].tolist())
    return frame[["layer", "token", "piece", "dim", "value", "times_median"]].reset_index(drop=True)


def massive_table(ds: xr.Dataset, rows: int = 12, layer: int | None = None) -> Html:
    """The largest hidden values as a ranked table; token text is escaped.

    Raises Refusal without top_value, top_token, top_dim (layer, rank) and magnitude_median(layer).
    """
    frame = massive_table_frame(ds, rows, layer)
    first = frame.iloc[0]
    title = (
        f"Largest hidden value: {number(first['value'])} = {number(first['times_median'])} × the median of "
        f"layer {first['layer']:.0f}, at token {first['token']:.0f}, dimension {first['dim']:.0f}"
    )
    notes = [
        "Sun et al. call a value massive above 100 and about 1,000 × the median |h| of its layer",
        *context(ds, "top_value"),
    ]
    body = [
        (
            str(place),
            str(row.layer),
            str(row.token),
            repr(row.piece) if row.piece else "",
            str(row.dim),
            number(row.value),
            number(row.times_median),
        )
        for place, row in enumerate(frame.itertuples(), start=1)
    ]
    heads = ("rank", "layer", "position", "token", "dimension", "value", "× median")
    return card(title, notes, table(heads, body), "gs-massive-table")


def massive_profile_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns layer, magnitude_max, magnitude_median. Raises Refusal without both variables."""
    names = ("magnitude_max", "magnitude_median")
    first, second = (long_frame(variable(ds, name, "massive_profile", ("layer",))) for name in names)
    return first.merge(second, on="layer")


def massive_profile(ds: xr.Dataset) -> Still:
    """Largest and median |h| by layer on a log axis, so that the distance between the lines is their ratio.

    Raises Refusal without magnitude_max(layer) and magnitude_median(layer).
    """
    from gatescope.views.still import still, whole_axis

    frame = massive_profile_frame(ds)
    ratio = frame["magnitude_max"] / frame["magnitude_median"]
    peak = frame.loc[ratio.idxmax()] if ratio.notna().any() else frame.iloc[0]
    title = (
        f"Largest |h| is {number(peak['magnitude_max'] / peak['magnitude_median'])} × the median in layer "
        f"{peak['layer']:.0f} ({number(peak['magnitude_max'])} against {number(peak['magnitude_median'])})"
    )
    with still(title, context(ds, "magnitude_max", "magnitude_median")) as (figure, axes):
        axes.plot(frame["layer"], frame["magnitude_max"], "-o", color=STRONG, ms=4, label="largest")
        axes.plot(frame["layer"], frame["magnitude_median"], "-s", color=COMPARED, ms=4, label="median")
        axes.set(xlabel=axis_label("layer"), ylabel="magnitude |h| (log axis)", yscale="log")
        whole_axis(axes.xaxis)
        axes.legend(loc="best")
    return figure
