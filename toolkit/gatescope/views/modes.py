"""In which operating mode the heads of every layer work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.views.select import context, labels, variable

if TYPE_CHECKING:
    from gatescope.views.still import Still

_NAMES = {1: "I: over n/2 keys", 2: "II: to n/2", 3: "III: to n/8", 4: "IV: to n/32, or one"}
#: From an average over everything, light, to a single key, dark; two middle tones that print apart.
_COLOURS = {1: "#F5D76E", 2: "#E69F00", 3: "#56B4E9", 4: "#003F6B"}


def mode_bars_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns layer, mode, heads: how many heads of a layer are in each class, 1 to 4.

    Raises Refusal without operating_mode(layer, head).
    """
    data = variable(ds, "operating_mode", "mode_bars", ("layer", "head"))
    rows = [
        {"layer": layer, "mode": mode, "heads": int((row == mode).sum())}
        for layer, row in zip(labels(data, "layer"), data.values, strict=True)
        for mode in _NAMES
    ]
    return pd.DataFrame(rows)


def mode_bars(ds: xr.Dataset) -> Still:
    """Heads of every layer by the class of their median row, stacked from the average over everything upwards.

    Raises Refusal as `mode_bars_frame` does.
    """
    from gatescope.views.still import still, whole_axis

    frame = mode_bars_frame(ds)
    counts = frame.groupby("mode")["heads"].sum()
    heads = int(counts.sum())
    said = ", ".join(f"{name.split(':')[0]} {int(counts[mode])}" for mode, name in _NAMES.items())
    notes = ["n keys a row sees; k of them hold 90 % of its attention; a head's class is that of its median row"]
    with still(f"Operating modes of {heads} heads: {said}", [*notes, *context(ds, "operating_mode")], height=3.8) as (
        figure,
        axes,
    ):
        layers = frame["layer"].unique()
        floor = np.zeros(len(layers))
        for mode, name in _NAMES.items():
            own = frame[frame["mode"] == mode]["heads"].to_numpy()
            axes.bar(layers, own, bottom=floor, color=_COLOURS[mode], width=0.85, label=name)
            floor = floor + own
        axes.set(xlabel=axis_label("layer"), ylabel="heads")
        whole_axis(axes.xaxis)
        whole_axis(axes.yaxis)
        axes.grid(visible=False, axis="x")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title="90 % of the attention in", reverse=True)
    return figure
