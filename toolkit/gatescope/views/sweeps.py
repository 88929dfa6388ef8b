"""A measured number along something that was turned: an inverse temperature, a dimension, a share of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.errors import Refusal
from gatescope.views.select import context, long_frame, quantity, variable
from gatescope.views.style import category, number

if TYPE_CHECKING:
    from gatescope.views.still import Still

#: What can be turned; the first of them that a variable has is its x axis.
SWEPT = ("beta", "dimension", "kept", "pairs", "length", "lr", "trade", "budget", "share", "keys_kept")
_REPEATED = ("seed", "text")
_MARKERS = "osD^vPX*"
#: So few values of what is turned have a tick each.
_FEW = 8


def sweep_lines_frame(ds: xr.Dataset, name: str, log: str = "") -> pd.DataFrame:
    """Columns (variant,) the replicate (seed or text), the swept dim and the variable: every point.

    Raises Refusal without the variable, without a dim of SWEPT, or with dims beside variant and one replicate.
    """
    data = variable(ds, name, "sweep_lines")
    swept = _swept(data)
    repeated = [dim for dim in _REPEATED if dim in data.dims][:1]
    lines = [dim for dim in ("variant", *repeated) if dim in data.dims]
    return long_frame(variable(ds, name, "sweep_lines", (*lines, swept)), name)


def _swept(data: xr.DataArray) -> str:
    found = [dim for dim in SWEPT if dim in data.dims]
    if not found:
        wanted = f"{data.name} along one of {', '.join(SWEPT)}"
        raise Refusal("sweep_lines", wanted, f"{tuple(data.dims)}", "choose a variable that was swept")
    return found[0]


def sweep_lines(ds: xr.Dataset, name: str, log: str = "") -> Still:
    """A variable along what was turned: a point a seed or text, a line through their means, a colour a variant.

    log  the axes that are logarithmic: "", "x", "y" or "xy"

    Raises Refusal as `sweep_lines_frame` does, and for another ``log``.
    """
    from gatescope.views.still import still

    if log not in ("", "x", "y", "xy"):
        raise Refusal("sweep_lines", "log in '', 'x', 'y', 'xy'", repr(log), "name the logarithmic axes")
    frame, swept = sweep_lines_frame(ds, name, log), _swept(ds[name])
    groups = list(frame.groupby("variant", sort=False)) if "variant" in frame else [("", frame)]
    ends = [(str(variant), own.groupby(swept)[name].mean().dropna()) for variant, own in groups]
    found = ", ".join(
        f"{variant} {number(mean.iloc[0])} to {number(mean.iloc[-1])}".strip() for variant, mean in ends if len(mean)
    )
    repeated = next((dim for dim in _REPEATED if dim in frame), None)
    notes = [f"a point is one {repeated}, a line their mean" if repeated else "", *context(ds, name)]
    title = f"{quantity(ds[name])}, from the smallest to the largest {axis_label(swept)}: {found or 'nothing measured'}"
    with still(title, [note for note in notes if note], height=4.2) as (figure, axes):
        for place, ((variant, own), (_, mean)) in enumerate(zip(groups, ends, strict=True)):
            colour, mark = category(place), _MARKERS[place % len(_MARKERS)]
            axes.plot(own[swept], own[name], mark, color=colour, ms=4, alpha=0.4)
            axes.plot(mean.index, mean, color=colour, lw=2, label=str(variant))
        axes.set(xlabel=axis_label(swept), ylabel=quantity(ds[name]))
        if "x" in log:
            axes.set_xscale("log", base=2)
            places = sorted(set(frame[swept]))
            if 1 < len(places) <= _FEW:
                axes.set_xticks(places)
                axes.minorticks_off()
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        if "y" in log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        if "variant" in frame:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        if "baseline_value" in ds[name].attrs and np.isfinite(ds[name].attrs["baseline_value"]):
            axes.axhline(ds[name].attrs["baseline_value"], color="#8C8C8C", ls="--", lw=1)
    return figure
