"""Value drain: how small the first token's value is beside the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.views.select import context, long_frame, quantity, variable
from gatescope.views.style import COMPARED, INK, STRONG, number

if TYPE_CHECKING:
    from gatescope.views.still import Still


def value_drain_bars_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns layer, kv_head, value_drain, mean (over the key-value heads of the layer).

    Raises Refusal without value_drain(layer, kv_head).
    """
    frame = long_frame(variable(ds, "value_drain", "value_drain_bars", ("layer", "kv_head")))
    return frame.assign(mean=frame.groupby("layer")["value_drain"].transform("mean"))


def value_drain_bars(ds: xr.Dataset) -> Still:
    """|v_0| over the mean |v_j| of the others: the mean of each layer as a bar, every key-value head a dot.

    Raises Refusal without value_drain(layer, kv_head).
    """
    from gatescope.views.still import still, whole_axis

    frame = value_drain_bars_frame(ds)
    layers = frame.drop_duplicates("layer")
    low, high = frame["value_drain"].min(), frame["value_drain"].max()
    title = f"The first token's value is {number(low)} to {number(high)} of the others' norm"
    with still(title, context(ds, "value_drain")) as (figure, axes):
        axes.bar(layers["layer"], layers["mean"], color=COMPARED, alpha=0.75, label="mean of the layer")
        axes.plot(frame["layer"], frame["value_drain"], ".", color=INK, ms=5, label="one key-value head")
        axes.axhline(1.0, color=STRONG, ls="--", lw=1.5, label="1: no drain")
        axes.set(xlabel=axis_label("layer"), ylabel=quantity(ds["value_drain"]))
        axes.set_ylim(0, max(1.25, high * 1.2) if high == high else 1.25)
        whole_axis(axes.xaxis)
        axes.legend(loc="upper right", ncols=3)
    return figure
