"""Routing beyond one record: loads over training, and which experts serve which group of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.errors import Refusal
from gatescope.views.select import context, labels, long_frame, variable
from gatescope.views.style import number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def expert_load_history_frame(ds: xr.Dataset, layer: int | None = None) -> pd.DataFrame:
    """Columns step, expert, expert_load (a share of 1), relative (1 where the load is even).

    Without ``layer`` the first. Raises Refusal without expert_load(step, layer, expert) or for a layer that is not
    in the record.
    """
    data = _history(ds, layer)
    frame = long_frame(data, "expert_load")
    return frame.assign(relative=frame["expert_load"] * data.sizes["expert"])


def expert_load_history(ds: xr.Dataset, layer: int | None = None) -> Figure:
    """Load of every expert of one layer over training, over the even load of 1/E; blank where it was not measured.

    Raises Refusal as `expert_load_history_frame` does.
    """

    from gatescope.views.hover import heat_trace, hover_figure, whole_ticks

    data, frame = _history(ds, layer), expert_load_history_frame(ds, layer)
    experts, steps = labels(data, "expert"), labels(data, "step")
    known = frame.dropna()
    title = "Load over training: "
    if known.empty:
        title += "NaN, nothing was routed"
    else:
        ends = [known[known["step"] == step] for step in (known["step"].min(), known["step"].max())]
        idle = [int((end["expert_load"] == 0).sum()) for end in ends]
        last = ends[1]
        title += (
            f"at step {last['step'].iloc[0]:.0f} the busiest of {len(experts)} experts has "
            f"{number(last['relative'].max())} × the even load; experts without a token: {idle[1]} ({idle[0]} at step "
            f"{ends[0]['step'].iloc[0]:.0f})"
        )
    trace = heat_trace(
        data.transpose("expert", "step").values * len(experts),
        steps,
        experts,
        top=max(2.0, float(np.nan_to_num(frame["relative"].max()))),
        xgap=0,
        ygap=2,
        bar="load over<br>even load",
        hover="step %{x}, expert %{y}: %{z:.2f} × the even load",
    )
    return hover_figure(
        [trace],
        title=title,
        context=context(ds, "expert_load"),
        height=min(max(24 * len(experts), 190), 600) + 60,
        xaxis={"title": axis_label("step"), "showgrid": False},
        yaxis={"title": axis_label("expert"), **whole_ticks(experts)},
    )


def group_expert_map_frame(ds: xr.Dataset, layer: int | None = None) -> pd.DataFrame:
    """Columns group, expert, group_expert: the share of a group's visits that go to the expert.

    Without ``layer`` the first. Raises Refusal without group_expert(layer, group, expert) or for a layer that is not
    in the record.
    """
    return long_frame(_groups(ds, layer), "group_expert")


def group_expert_map(ds: xr.Dataset, layer: int | None = None) -> Figure:
    """Which experts serve which group: a row a group of tokens, its colour the share of visits an expert gets.

    Raises Refusal as `group_expert_map_frame` does.
    """

    from gatescope.views.hover import heat_trace, hover_figure, whole_ticks

    data = _groups(ds, layer)
    groups, experts = labels(data, "group"), labels(data, "expert")
    top = np.nan_to_num(data.values, nan=-1.0)
    served = top.max(1) >= 0
    busy = len(set(top.argmax(1)[served].tolist()))
    title = f"{int(served.sum())} groups, {busy} of {len(experts)} experts are first for any"
    if "group_information" in ds:
        known = ds["group_information"]
        known = known.sel(layer=data["layer"]) if "layer" in known.dims else known
        title += f"; the expert tells {number(float(known))} nats about the group"
    trace = heat_trace(
        data.values,
        experts,
        [str(group) for group in groups],
        bar="share of the<br>group's visits",
        hover="group %{y}, expert %{x}: %{z:.3f} of the group's visits",
    )
    return hover_figure(
        [trace],
        title=title,
        context=context(ds, "group_expert"),
        height=min(max(24 * len(groups), 190), 600) + 60,
        xaxis={"title": axis_label("expert"), **whole_ticks(experts)},
        yaxis={"title": axis_label("group"), "type": "category", "autorange": "reversed"},
    )


def _history(ds: xr.Dataset, layer: int | None) -> xr.DataArray:
    return _layer(variable(ds, "expert_load", "expert_load_history", ("step", "layer", "expert")), layer)


def _groups(ds: xr.Dataset, layer: int | None) -> xr.DataArray:
    return _layer(variable(ds, "group_expert", "group_expert_map", ("layer", "group", "expert")), layer)


def _layer(data: xr.DataArray, layer: int | None) -> xr.DataArray:
    found = labels(data, "layer")
    if layer is not None and layer not in found:
        raise Refusal(f"the view of {data.name}", f"a layer of {found}", str(layer), "choose one of them")
    return data.assign_coords(layer=found).sel(layer=found[0] if layer is None else layer)
