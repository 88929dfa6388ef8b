"""The figures of a report: stills of `gatescope.views`, and still maps of what the views draw for hovering."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from gatescope import views
from gatescope.dims import axis_label
from gatescope.views.select import context, extreme, long_frame, pieces, quantity
from gatescope.views.style import COMPARED, SEQUENTIAL, STRONG, number

if TYPE_CHECKING:
    from gatescope.views.still import Still

#: Points of a line along tokens; longer texts are averaged to so many.
_POINTS = 512


@dataclass(frozen=True)
class Figure:
    """A row of FIGURES: anchor, heading, the variables it needs, and what draws it with the numbers it drew."""

    anchor: str
    heading: str
    variables: tuple[str, ...]
    draw: Callable[[xr.Dataset], tuple[Any, pd.DataFrame]]


def heat_map(
    data: xr.DataArray, ds: xr.Dataset, title: str, top: float, low: float = 0.0, cmap: str = SEQUENTIAL
) -> Still:
    """A variable over layer and one more dimension as a map from ``low`` to ``top``; NaN is left blank."""
    from gatescope.views.still import draw_map, still, whole_axis

    along = next(str(dim) for dim in data.dims if dim != "layer")
    height = min(max(2.6 + 0.14 * data.sizes["layer"], 3.4), 8.0)
    with still(title, context(ds, str(data.name)), height=height) as (figure, axes):
        image = draw_map(axes, data.transpose("layer", along), low, top, cmap)
        axes.set(xlabel=axis_label(along), ylabel=axis_label("layer"))
        whole_axis(axes.xaxis)
        whole_axis(axes.yaxis)
        figure.colorbar(image, ax=axes, pad=0.015, fraction=0.05)
    return figure


def _map(name: str, title: str) -> Callable[[xr.Dataset], tuple[Any, pd.DataFrame]]:
    def draw(ds: xr.Dataset) -> tuple[Any, pd.DataFrame]:
        frame = long_frame(ds[name])
        value, where = extreme(frame, name)
        words = title.format(mean=number(frame[name].mean()), largest=f"{value} ({where})")
        return heat_map(ds[name], ds, words, 1.0), frame

    return draw


def _view(name: str) -> Callable[[xr.Dataset], tuple[Any, pd.DataFrame]]:
    def draw(ds: xr.Dataset) -> tuple[Any, pd.DataFrame]:
        return getattr(views, name)(ds), getattr(views, f"{name}_frame")(ds)

    return draw


def _load(ds: xr.Dataset) -> tuple[Any, pd.DataFrame]:
    frame = views.expert_load_heatmap_frame(ds)
    value, where = extreme(frame, "relative")
    relative = (ds["expert_load"] * ds.sizes["expert"]).rename("expert_load").assign_attrs(ds["expert_load"].attrs)
    title = (
        f"Expert load over the even load: at most {value} ({where}); {int(frame['dead'].sum())} of "
        f"{int(frame['expert_load'].notna().sum())} experts are dead (0)"
    )
    top = max(2.0, float(np.nanmax([frame["relative"].max(), 0.0])))
    return heat_map(relative, ds, title, top), frame


def _gates(ds: xr.Dataset) -> tuple[Any, pd.DataFrame]:
    frame = long_frame(ds["gate_mean"])
    value, where = extreme(frame, "gate_mean")
    return heat_map(ds["gate_mean"], ds, f"Mean gate score: largest {value} ({where})", 1.0), frame


def _keys(ds: xr.Dataset) -> tuple[Any, pd.DataFrame]:
    frame = views.key_mass_bars_frame(ds)
    value, where = extreme(frame, "key_mass")
    title = f"The most attended token receives {value} ({where}), mean over layers and heads"
    drawn = _line(ds, "key_mass", frame, title, log=True)
    return drawn, frame.sort_values("key_mass", ascending=False, kind="stable", ignore_index=True)


def _loss(ds: xr.Dataset) -> tuple[Any, pd.DataFrame]:
    frame = long_frame(ds["next_token_loss"])
    frame.insert(1, "piece", pieces(ds, frame["token"].tolist()))
    title = f"Loss of the next token along the text: mean {number(frame['next_token_loss'].mean())} nats"
    return _line(ds, "next_token_loss", frame, title, log=False), frame


def _line(ds: xr.Dataset, name: str, frame: pd.DataFrame, title: str, *, log: bool) -> Still:
    from gatescope.views.still import still, whole_axis

    width = -(-len(frame) // _POINTS)
    lines = context(ds, name) + ([f"Points are means over {width} neighbouring tokens"] if width > 1 else [])
    # The first token is what sinks are about; it stays a point of its own.
    bins = np.where(frame["token"] == 0, -1, frame["token"] // width)
    shown = frame.groupby(bins)[["token", name]].mean()
    with still(title, lines) as (figure, axes):
        axes.plot(shown["token"], shown[name], "-", lw=1, color=COMPARED)
        axes.plot(shown["token"].iloc[:1], shown[name].iloc[:1], "o", ms=6, color=STRONG, label="first token")
        axes.set(xlabel=axis_label("token"), ylabel=quantity(ds[name]))
        if log and (shown[name] > 0).any():
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        whole_axis(axes.xaxis)
        axes.margins(y=0.15)
        axes.legend(loc="upper right")
    return figure


FIGURES: tuple[Figure, ...] = (
    Figure(
        "sink-map",
        "Attention to the first token",
        ("first_attention",),
        _map("first_attention", "Attention to the first token: mean {mean}, largest {largest}"),
    ),
    Figure("key-mass", "Attention every token receives", ("key_mass",), _keys),
    Figure(
        "entropy-map",
        "Entropy of attention by head",
        ("entropy_normalised",),
        _map("entropy_normalised", "Attention entropy: mean {mean} of its maximum, largest {largest}"),
    ),
    Figure("entropy-profile", "Entropy of attention by layer", ("entropy_normalised",), _view("entropy_profile")),
    Figure(
        "massive-profile",
        "Largest and median hidden values",
        ("magnitude_max", "magnitude_median"),
        _view("massive_profile"),
    ),
    Figure("value-drain", "Value drain", ("value_drain",), _view("value_drain_bars")),
    Figure("gate-mean", "Gate scores", ("gate_mean",), _gates),
    Figure("expert-load", "Load of the experts", ("expert_load",), _load),
    Figure(
        "activations",
        "Activation sparsity of the MLPs",
        ("activation_small", "activation_zeros", "neurons_silent", "activation_hoyer"),
        _view("sparsity_profile"),
    ),
    Figure(
        "residual",
        "Norms of the residual stream",
        ("resid_norm", "attention_update_norm", "mlp_update_norm"),
        _view("residual_profile"),
    ),
    Figure(
        "lens",
        "Logit lens",
        ("lens_loss", "lens_divergence", "lens_entropy", "lens_agreement"),
        _view("lens_profile"),
    ),
    Figure("loss", "Loss along the text", ("next_token_loss",), _loss),
)

__all__ = ["FIGURES", "Figure", "heat_map"]
