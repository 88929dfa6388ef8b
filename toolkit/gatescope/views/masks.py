"""A weight matrix and its mask: which inputs of every output stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from gatescope.views.select import context, long_frame, quantity, variable
from gatescope.views.style import RULE, SOFT_INK, number

if TYPE_CHECKING:
    from gatescope.views.still import Still

_DIMS = ("hidden", "dim")
#: More groups than this are drawn without lines between them.
_GROUPS = 64


def mask_map_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns hidden (the output), dim (the input), masked_weight: NaN where the mask cuts.

    Raises Refusal without masked_weight(hidden, dim).
    """
    return long_frame(variable(ds, "masked_weight", "mask_map", _DIMS))


def mask_map(ds: xr.Dataset) -> Still:
    """Weights that stay, blue below 0 and red above, on grey where the mask cuts; the attribute ``group`` of the
    variable, M of N:M, draws a line between groups of so many inputs.

    Raises Refusal as `mask_map_frame` does.
    """
    from gatescope.views.still import draw_map, signed_map, still, whole_axis

    data = variable(ds, "masked_weight", "mask_map", _DIMS)
    frame = mask_map_frame(ds)
    stay, group = int(frame["masked_weight"].notna().sum()), int(data.attrs.get("group", 0))
    largest = float(np.nanmax(np.abs(data.values))) if stay else 1.0
    # What is missing here was cut, and the title counts it.
    notes = context(ds.assign(masked_weight=data.fillna(0)), "masked_weight")
    title = f"{stay} of {len(frame)} weights stay ({number(100 * stay / len(frame))} %)"
    if group:
        title += f", {group} inputs a group"
    with still(title, notes, height=1.9 + 0.16 * data.sizes["hidden"]) as (figure, axes):
        axes.set_facecolor(RULE)
        picture = draw_map(axes, data, -largest, largest, signed_map())
        if group and data.sizes["dim"] <= _GROUPS * group:
            for edge in range(group, data.sizes["dim"], group):
                axes.axvline(edge - 0.5, color=SOFT_INK, lw=0.8)
        figure.colorbar(picture, ax=axes, label=quantity(data), shrink=0.9, pad=0.01)
        axes.set(xlabel="input", ylabel="output")
        for axis in (axes.xaxis, axes.yaxis):
            whole_axis(axis)
    return figure
