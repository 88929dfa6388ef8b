"""Losses of a model under an intervention, beside no intervention and the matched random controls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from gatescope.views.select import context, labels, long_frame, quantity, variable
from gatescope.views.style import COMPARED, FAINT, INK, STRONG, category, number

if TYPE_CHECKING:
    from gatescope.views.still import Still

_COLOURS = {"without": COMPARED, "with": STRONG, "control": FAINT}


def loss_bars_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns setting, kind, nll, mean: a row a value; dims beyond ``setting`` are replicates and keep their columns.

    kind comes from the coordinate ``kind`` along setting ("without", "with", "control"), else it is the setting.
    Raises Refusal without nll over ``setting``.
    """
    data = variable(ds, "nll", "loss_bars")
    if "setting" not in data.dims:
        variable(ds, "nll", "loss_bars", ("setting",))
    data = data.assign_coords(setting=labels(data, "setting"))
    kinds = ds["kind"].values.tolist() if "kind" in ds.coords else labels(data, "setting")
    frame = long_frame(data.transpose("setting", ...))
    frame.insert(1, "kind", frame["setting"].map(dict(zip(labels(data, "setting"), kinds, strict=True))))
    return frame.assign(mean=frame.groupby("setting", sort=False)["nll"].transform("mean"))


def loss_bars(ds: xr.Dataset) -> Still:
    """Loss of every setting as a bar, replicates as dots; a dashed line carries the first setting across.

    Raises Refusal without nll over ``setting``.
    """
    from gatescope.views.still import still

    frame = loss_bars_frame(ds)
    bars = frame.drop_duplicates("setting")
    settings = bars["setting"].astype(str).tolist()
    title = ", ".join(f"{name} {number(mean)}" for name, mean in zip(settings[:4], bars["mean"], strict=False))
    title = f"Loss: {title}" if len(settings) <= 4 else f"Loss: {title} …"
    with still(title, context(ds, "nll"), height=1.6 + 0.42 * len(settings)) as (figure, axes):
        colours = [_COLOURS.get(str(kind), category(place)) for place, kind in enumerate(bars["kind"])]
        places = range(len(settings))
        axes.barh(places, bars["mean"], color=colours, height=0.68)
        if len(frame) > len(bars):
            axes.plot(frame["nll"], frame["setting"].astype(str).map(settings.index), ".", color=INK, ms=6)
        span = max(frame["nll"].max(), 0.0)
        ends = frame.groupby("setting", sort=False)["nll"].max()
        for place, mean, end in zip(places, bars["mean"], ends, strict=True):
            axes.text(end + 0.012 * span, place, number(mean), va="center", fontsize=10)
        axes.axvline(bars["mean"].iloc[0], color=INK, ls="--", lw=1)
        axes.set_yticks(list(places), settings)
        axes.set(xlabel=quantity(ds["nll"]), xlim=(0, span * 1.12 if span else 1.0))
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
    return figure
