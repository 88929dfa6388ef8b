"""How spread out attention is: row entropy as a share of the most it could be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.views.select import context, long_frame, quantity, variable
from gatescope.views.style import COMPARED, FAINT, number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from gatescope.views.still import Still


def entropy_heatmap_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns layer, head, entropy_normalised (0: one key, 1: uniform). Raises Refusal without the variable."""
    return long_frame(variable(ds, "entropy_normalised", "entropy_heatmap", ("layer", "head")))


def entropy_heatmap(ds: xr.Dataset) -> Figure:
    """Normalised row entropy as a map of layer by head, on a fixed scale from 0 to 1.

    Raises Refusal without entropy_normalised(layer, head).
    """
    from gatescope.views.hover import head_map

    return head_map(
        ds, "entropy_normalised", "entropy_heatmap", "Attention entropy: mean {mean} of its maximum, largest {largest}"
    )


def entropy_profile_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns layer, head, entropy_normalised, and per layer their mean, low and high over heads.

    Raises Refusal without entropy_normalised(layer, head).
    """
    frame = long_frame(variable(ds, "entropy_normalised", "entropy_profile", ("layer", "head")))
    by_layer = frame.groupby("layer")["entropy_normalised"]
    return frame.assign(mean=by_layer.transform("mean"), low=by_layer.transform("min"), high=by_layer.transform("max"))


def entropy_profile(ds: xr.Dataset) -> Still:
    """Normalised row entropy by layer: the mean as a line, every head a dot, their range a band.

    Raises Refusal without entropy_normalised(layer, head).
    """
    from gatescope.views.still import still, whole_axis

    frame = entropy_profile_frame(ds)
    layers = frame.drop_duplicates("layer")
    first, last = layers.iloc[0], layers.iloc[-1]
    title = (
        f"Attention entropy by layer: {number(first['mean'])} in layer {first['layer']:.0f}, "
        f"{number(last['mean'])} in layer {last['layer']:.0f}"
    )
    with still(title, context(ds, "entropy_normalised")) as (figure, axes):
        axes.fill_between(
            layers["layer"], layers["low"], layers["high"], color=COMPARED, alpha=0.18, lw=0, label="range"
        )
        axes.plot(frame["layer"], frame["entropy_normalised"], ".", color=FAINT, ms=5, label="one head")
        axes.plot(layers["layer"], layers["mean"], "-o", color=COMPARED, ms=4, label="mean over heads")
        axes.set(xlabel=axis_label("layer"), ylabel=quantity(ds["entropy_normalised"]), ylim=(0, 1.02))
        whole_axis(axes.xaxis)
        axes.legend(loc="upper right", ncols=3)
    return figure
