"""The residual stream by layer: how large it is, and how much each block adds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.views.select import context, long_frame, variable
from gatescope.views.style import COMPARED, INK, STRONG, number

if TYPE_CHECKING:
    from gatescope.views.still import Still

_LINES = {
    "resid_norm": ("-o", INK, "stream leaving the block"),
    "attention_update_norm": ("-s", COMPARED, "what attention adds"),
    "mlp_update_norm": ("-^", STRONG, "what the MLP or the experts add"),
}


def residual_profile_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns layer, resid_norm, attention_update_norm, mlp_update_norm. Raises Refusal without one of them."""
    first, *others = (long_frame(variable(ds, name, "residual_profile", ("layer",))) for name in _LINES)
    for other in others:
        first = first.merge(other, on="layer")
    return first


def residual_profile(ds: xr.Dataset) -> Still:
    """Norms of the stream and of what attention and MLP add to it, by layer, on a log axis.

    Raises Refusal as `residual_profile_frame` does.
    """
    from gatescope.views.still import still, whole_axis

    frame = residual_profile_frame(ds)
    first, last = frame.iloc[0], frame.iloc[-1]
    title = (
        f"Residual stream: norm {number(first['resid_norm'])} after layer {first['layer']:.0f}, "
        f"{number(last['resid_norm'])} after layer {last['layer']:.0f}"
    )
    with still(title, context(ds, *_LINES)) as (figure, axes):
        for name, (style, colour, label) in _LINES.items():
            axes.plot(frame["layer"], frame[name], style, color=colour, ms=4, label=label)
        axes.set(xlabel=axis_label("layer"), ylabel="norm, mean over tokens (log axis)", yscale="log")
        whole_axis(axes.xaxis)
        figure.legend(loc="outside lower center", ncols=3)
    return figure
