"""Routed experts: how evenly they are used, which go together, and which token visits which."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.errors import Refusal
from gatescope.views.select import context, extreme, labels, long_frame, pieces, variable
from gatescope.views.style import PAPER, STRONG, number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def expert_load_heatmap_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns layer, expert, expert_load (a share of 1), relative (1 where the load is even), dead (no token).

    Raises Refusal without expert_load(layer, expert).
    """
    data = variable(ds, "expert_load", "expert_load_heatmap", ("layer", "expert"))
    frame = long_frame(data)
    return frame.assign(relative=frame["expert_load"] * data.sizes["expert"], dead=frame["expert_load"] == 0)


def expert_load_heatmap(ds: xr.Dataset) -> Figure:
    """Load of every expert as a map of layer by expert, over the even load of 1/E; crosses mark dead experts.

    Raises Refusal without expert_load(layer, expert).
    """
    import plotly.graph_objects as go

    from gatescope.views.hover import heat_trace, hover_figure, whole_ticks

    data = variable(ds, "expert_load", "expert_load_heatmap", ("layer", "expert"))
    frame = expert_load_heatmap_frame(ds)
    layers, experts, dead = labels(data, "layer"), labels(data, "expert"), frame[frame["dead"]]
    value, where = extreme(frame, "relative")
    routed = int(frame["expert_load"].notna().sum())
    title = f"Expert load: at most {value} × the even load ({where}); {len(dead)} of {routed} experts are dead"
    traces = [
        heat_trace(
            data.values * data.sizes["expert"],
            experts,
            layers,
            top=max(2.0, float(np.nanmax([frame["relative"].max(), 0.0]))),
            customdata=data.values,
            bar="load over<br>even load",
            hover="layer %{y}, expert %{x}<br>%{customdata:.3f} of all assignments, %{z:.2f} × the even load",
        ),
        go.Scatter(
            x=dead["expert"],
            y=dead["layer"],
            mode="markers",
            marker={"symbol": "x", "color": STRONG, "size": 10, "line": {"color": PAPER, "width": 1}},
            hovertemplate="layer %{y}, expert %{x}: dead<extra></extra>",
        ),
    ]
    return hover_figure(
        traces,
        title=title,
        context=["A cross marks an expert that no token visits", *_window(data), *context(ds, "expert_load")],
        height=min(max(15 * len(layers), 190), 600) + 60,
        showlegend=False,
        xaxis={"title": axis_label("expert"), **whole_ticks(experts)},
        yaxis={"title": axis_label("layer"), **whole_ticks(layers)},
    )


def coactivation_heatmap_frame(ds: xr.Dataset, layer: int | None = None) -> pd.DataFrame:
    """Columns expert, other_expert, coactivation (share of the expert's tokens that visit the other too).

    The diagonal, which is 1, is left out. Without ``layer`` the one with the strongest pair. Raises Refusal without
    coactivation(layer, expert, other_expert) or for a layer that is not in the record.
    """
    frame = long_frame(_pairs(ds, layer), "coactivation")
    return frame[frame["expert"] != frame["other_expert"]].reset_index(drop=True)


def coactivation_heatmap(ds: xr.Dataset, layer: int | None = None) -> Figure:
    """Which experts one layer's tokens visit together: a row an expert, its colour the share that visits the other too.

    Raises Refusal as `coactivation_heatmap_frame` does.
    """

    from gatescope.views.hover import heat_trace, hover_figure, whole_ticks

    data, frame = _pairs(ds, layer), coactivation_heatmap_frame(ds, layer)
    experts, others = labels(data, "expert"), labels(data, "other_expert")
    found = frame["coactivation"]
    title = f"Experts together, layer {int(data['layer'])}: "
    if found.isna().all():
        title += "NaN, no expert is visited"
    else:
        top = frame.loc[found.idxmax()]
        title += (
            f"{number(top['coactivation'])} of the tokens of expert {top['expert']:.0f} visit expert "
            f"{top['other_expert']:.0f} too, {number(found.mean())} on average"
        )
    trace = heat_trace(
        np.where(np.equal.outer(experts, others), np.nan, data.values),
        others,
        experts,
        bar="share of the<br>row's tokens",
        hover="%{z:.3f} of the tokens of expert %{y}<br>visit expert %{x} too",
    )
    return hover_figure(
        [trace],
        title=title,
        context=["The diagonal, which is 1, is left blank", *_window(data), *context(ds, "coactivation")],
        height=min(max(15 * len(experts), 240), 600) + 60,
        xaxis={"title": axis_label("other_expert"), **whole_ticks(others)},
        yaxis={"title": axis_label("expert"), "autorange": "reversed", **whole_ticks(experts)},
    )


def token_expert_map_frame(ds: xr.Dataset, layer: int | None = None) -> pd.DataFrame:
    """Columns token, piece, choice, expert, weight of one layer, without visits of weight 0.

    Without ``layer`` the first that has a router.

    Raises Refusal without token_expert and token_weight (layer, token, choice), and for a layer not in the record.
    """
    dims = ("layer", "token", "choice")
    expert, weight = (
        _one_layer(variable(ds, name, "token_expert_map", dims), "token_expert_map", layer)
        for name in ("token_expert", "token_weight")
    )
    frame = long_frame(expert, "expert").merge(long_frame(weight, "weight"), on=["token", "choice"])
    if frame["expert"].isna().any():
        raise Refusal("token_expert_map", "a layer with a router", f"layer {int(expert['layer'])}", "choose another")
    frame = frame.astype({"expert": int})
    frame.insert(1, "piece", pieces(ds, frame["token"].tolist()))
    return frame[frame["weight"] != 0].reset_index(drop=True)


def token_expert_map(ds: xr.Dataset, layer: int | None = None) -> Figure:
    """Which experts every token visits in one layer: a column a token, a row an expert, colour the expert's weight.

    Raises Refusal as `token_expert_map_frame` does.
    """

    from gatescope.views.hover import heat_trace, hover_figure, whole_ticks

    frame = token_expert_map_frame(ds, layer)
    place = int(_one_layer(variable(ds, "token_expert", "token_expert_map"), "token_expert_map", layer)["layer"])
    tokens = labels(ds["token_expert"], "token")
    experts = labels(ds, "expert") if "expert" in ds.sizes else list(range(int(frame["expert"].max()) + 1))
    grid = np.full((len(experts), len(tokens)), np.nan)
    rows, columns = ({label: at for at, label in enumerate(values)} for values in (experts, tokens))
    for visit in frame.itertuples():
        grid[rows[int(visit.expert)], columns[visit.token]] = visit.weight
    busiest = frame["expert"].value_counts()
    title = (
        f"Experts of layer {place}: expert {busiest.index[0]:.0f} serves {busiest.iloc[0]} of {len(tokens)} tokens, "
        f"{busiest.size} of {len(experts)} serve any"
    )
    texts = [escape(repr(piece)) if piece else "" for piece in pieces(ds, tokens)]
    trace = heat_trace(
        grid,
        tokens,
        experts,
        top=max(1.0, float(frame["weight"].max())),
        xgap=0,
        customdata=np.broadcast_to(np.array(texts, dtype=object), grid.shape),
        bar="weight of<br>the expert",
        hover="position %{x} %{customdata}<br>expert %{y}, weight %{z:.3f}",
    )
    return hover_figure(
        [trace],
        title=title,
        context=["A column is a token; what it does not visit is left blank", *context(ds, "token_weight")],
        height=min(max(18 * len(experts), 190), 600) + 60,
        xaxis={"title": axis_label("token"), "showgrid": False},
        yaxis={"title": axis_label("expert"), **whole_ticks(experts)},
    )


def _pairs(ds: xr.Dataset, layer: int | None) -> xr.DataArray:
    data = variable(ds, "coactivation", "coactivation_heatmap", ("layer", "expert", "other_expert"))
    if layer is None:
        off = np.where(np.eye(data.sizes["expert"], dtype=bool), np.nan, data.values).reshape(data.sizes["layer"], -1)
        layer = labels(data, "layer")[int(np.nan_to_num(off, nan=-1.0).max(1).argmax())]
    return _one_layer(data, "coactivation_heatmap", layer)


def _one_layer(data: xr.DataArray, view: str, layer: int | None) -> xr.DataArray:
    found = labels(data, "layer")
    if layer is not None and layer not in found:
        raise Refusal(view, f"a layer of {found}", str(layer), "choose one of them")
    if layer is None:
        routed = data.notnull().all([dim for dim in data.dims if dim != "layer"]).values.tolist()
        layer = found[routed.index(True)] if True in routed else found[0]
    return data.assign_coords(layer=found).sel(layer=layer)


def _window(data: xr.DataArray) -> list[str]:
    tokens = data.attrs.get("window_tokens")
    return [f"Window: {tokens:,} tokens"] if tokens is not None else []
