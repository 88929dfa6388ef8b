"""Points of a grid as lines over its axes, coloured by what was measured there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from gatescope.errors import Refusal
from gatescope.views.select import context, quantity, variable
from gatescope.views.style import INK, SEQUENTIAL, number

if TYPE_CHECKING:
    from gatescope.views.still import Still

#: Lines that share a value lie side by side over this share of an axis, lowest metric first.
_SPREAD = 0.12


def parallel_points_frame(ds: xr.Dataset, metric: str) -> pd.DataFrame:
    """A row a point that has the metric: every coordinate along ``point`` with more than one value, then the metric.

    Raises Refusal without the metric, with dims other than point, or when no coordinate varies.
    """
    data = variable(ds, metric, "parallel_points", ("point",))
    axes = {
        str(name): coord.values
        for name, coord in data.coords.items()
        if coord.dims == ("point",) and name != "point" and len(pd.unique(coord.values)) > 1
    }
    if not axes:
        step = "gather points that differ in something"
        raise Refusal("parallel_points", "a coordinate along point that varies", "none", step)
    return pd.DataFrame({**axes, metric: data.values}).dropna(subset=[metric]).reset_index(drop=True)


def parallel_points(ds: xr.Dataset, metric: str) -> Still:
    """A line a point over the axes of its config, coloured by the metric, which is the last axis.

    Raises Refusal as `parallel_points_frame` does, and when no point has the metric.
    """
    from matplotlib.collections import LineCollection

    from gatescope.views.still import still

    frame = parallel_points_frame(ds, metric)
    if frame.empty:
        raise Refusal("parallel_points", f"a point with {metric}", "none", "choose another metric")
    names = [name for name in frame.columns if name != metric]
    values = frame[metric].to_numpy(dtype=float)
    low, high = float(values.min()), float(values.max())
    height = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
    ticks = {name: _levels(frame[name]) for name in names}
    columns = [_places(frame[name], ticks[name]) + _SPREAD * (height - 0.5) for name in names]
    lines = np.stack([*columns, height], axis=1)
    best, worst = (_words(frame[names], int(place)) for place in (values.argmin(), values.argmax()))
    title = f"{quantity(ds[metric])}: least {number(low)} ({best}), most {number(high)} ({worst})"
    note = f"{len(frame)} points, a line each; the last axis and the colour are the metric"
    with still(title, [note, *context(ds, metric)], height=6.0) as (figure, axes):
        path = [np.column_stack([np.arange(lines.shape[1]), line]) for line in lines]
        drawn = axes.add_collection(LineCollection(path, cmap=SEQUENTIAL, alpha=0.6, lw=1.2))
        drawn.set_array(values)
        axes.vlines(range(len(names) + 1), -0.1, 1.1, color=INK, lw=0.8)
        for place, name in enumerate(names):
            for level, at in zip(ticks[name], _spaced(len(ticks[name])), strict=True):
                box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1}
                axes.text(place, at, str(level), ha="center", va="center", fontsize=9, color=INK, bbox=box)
        axes.set_xticks(
            range(len(names) + 1), [*(name.replace("_", "\n") for name in names), metric.replace("_", "\n")]
        )
        axes.set(yticks=[], xlim=(-0.5, len(names) + 0.1), ylim=(-0.12, 1.12))
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.grid(visible=False)
        figure.colorbar(drawn, ax=axes, label=quantity(ds[metric]), pad=0.02)
    return figure


def _words(axes: pd.DataFrame, row: int) -> str:
    """A point by its first axis and by what it does not share with most points."""
    told = [
        name
        for place, name in enumerate(axes.columns)
        if place == 0 or axes[name].iloc[row] != axes[name].mode().iloc[0]
    ]
    return ", ".join(f"{name} {axes[name].iloc[row]}" for name in told)


def _levels(column: pd.Series) -> list[object]:
    """Values of an axis from bottom to top: numbers by size, words as they come."""
    found = list(pd.unique(column))
    return sorted(found) if column.dtype.kind in "iuf" else found


def _spaced(count: int) -> np.ndarray:
    return np.linspace(0.0, 1.0, count) if count > 1 else np.array([0.5])


def _places(column: pd.Series, levels: list[object]) -> np.ndarray:
    return column.map(dict(zip(levels, _spaced(len(levels)), strict=True))).to_numpy(dtype=float)
