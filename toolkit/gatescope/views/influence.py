"""How much of every earlier token is in what a position reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.views.select import context, long_frame, quantity, variable
from gatescope.views.style import number

if TYPE_CHECKING:
    from gatescope.views.still import Still

_DIMS = ("token", "key")


def influence_map_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns token (who reads), key (who is read), influence; keys of the future left out.

    Raises Refusal without influence(token, key).
    """
    frame = long_frame(variable(ds, "influence", "influence_map", _DIMS))
    return frame[frame["key"] <= frame["token"]].reset_index(drop=True)


def influence_map(ds: xr.Dataset) -> Still:
    """The weight with which a value enters an output, a row a reading position; below 0 blue, above 0 red. The future
    is blank.

    Raises Refusal as `influence_map_frame` does.
    """
    from gatescope.views.still import draw_map, signed_map, still, whole_axis

    data, frame = variable(ds, "influence", "influence_map", _DIMS), influence_map_frame(ds)
    seen = np.tri(data.sizes["token"], data.sizes["key"]) > 0
    size = frame["influence"].abs()
    largest = float(size.max()) or 1.0
    distance = frame["token"] - frame["key"]
    reach = float((size * distance).sum() / size.sum()) if size.sum() else 0.0
    title = f"{quantity(data)}: {number(float(frame['influence'].mean()))} on average; "
    title += f"{number(reach)} tokens back on average, weighed by size"
    with still(title, context(ds, "influence"), height=4.6) as (figure, axes):
        picture = draw_map(axes, data.where(xr.DataArray(seen, dims=_DIMS)), -largest, largest, signed_map())
        axes.invert_yaxis()
        figure.colorbar(picture, ax=axes, label=quantity(data), shrink=0.9, pad=0.01)
        axes.set(xlabel=axis_label("key"), ylabel=axis_label("token"))
        for axis in (axes.xaxis, axes.yaxis):
            whole_axis(axis)
    return figure
