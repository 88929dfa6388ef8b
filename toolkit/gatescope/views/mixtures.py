"""A fitted mixture of experts over its data, and its experts in the Voronoi cells of the true ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from gatescope.views.select import context, long_frame, variable
from gatescope.views.style import FAINT, INK, category, number

if TYPE_CHECKING:
    from gatescope.views.still import Still


def mixture_fit_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns kind, expert, x, mean, weight, scale, cell: one row a fitted or true expert and grid point.

    kind is "fitted" or "true". Raises Refusal without the variables of `mixture_fit`.
    """
    grid = variable(ds, "input", "mixture_fit", ("point",)).values
    parts = []
    for kind, prefix, dim in (("fitted", "expert", "expert"), ("true", "true", "true_expert")):
        mean = variable(ds, f"{prefix}_mean", "mixture_fit", (dim, "point"))
        own = long_frame(mean, "mean").rename(columns={dim: "expert"})
        weight = variable(ds, f"{prefix}_weight", "mixture_fit", (dim, "point"))
        scale = variable(ds, f"{prefix}_scale", "mixture_fit", (dim,)).values
        cell = ds["expert_cell"].values if kind == "fitted" else np.arange(len(scale))
        own["x"] = np.tile(grid, len(scale))
        own["weight"] = weight.values.ravel()
        own["scale"], own["cell"] = np.repeat(scale, len(grid)), np.repeat(cell, len(grid))
        parts.append(own.drop(columns="point").assign(kind=kind))
    return pd.concat(parts, ignore_index=True)[["kind", "expert", "x", "mean", "weight", "scale", "cell"]]


def mixture_fit(ds: xr.Dataset) -> Still:
    """Above, the data and every expert's line, one scale to both sides, solid where it is fitted and dashed where it is
    true; below, the weight that the gate gives it. An expert is faint where it has no weight. Colours are cells.

    Raises Refusal as `mixture_fit_frame` does, or without sample_x and sample_y.
    """
    from gatescope.views.still import stills

    frame = mixture_fit_frame(ds)
    x, y = (variable(ds, name, "mixture_fit", ("sample",)).values for name in ("sample_x", "sample_y"))
    fitted = frame[frame["kind"] == "fitted"]
    cells = ", ".join(f"{count} in cell {cell + 1}" for cell, count in _counts(ds).items())
    title = f"{fitted['expert'].nunique()} fitted experts: {cells}"
    with stills(title, context(ds, "expert_mean"), rows=2, columns=1, height=6.4) as (figure, (above, below)):
        above.plot(x, y, ".", color=FAINT, ms=3, alpha=0.5 if len(x) > 200 else 0.9, label="data")
        for (kind, _), own in frame.groupby(["kind", "expert"], sort=False):
            colour = category(int(own["cell"].iloc[0]))
            _line(above, below, own, colour, solid=kind == "fitted")
        spread = np.ptp(y) or 1.0
        above.set(ylabel="output y", ylim=(y.min() - 0.08 * spread, y.max() + 0.08 * spread))
        below.set(ylabel="weight of the gate", ylim=(-0.04, 1.04), xlabel="input x")
        above.plot([], [], color=INK, lw=2, label="fitted")
        above.plot([], [], color=INK, lw=2, ls="--", label="true")
        above.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _line(above: object, below: object, own: pd.DataFrame, colour: str, *, solid: bool) -> None:
    style, width = ("-", 2.0) if solid else ("--", 1.4)
    on = own["weight"] > 1e-3
    above.plot(own["x"], own["mean"], ls=style, color=colour, lw=width, alpha=0.25)  # type: ignore[attr-defined]
    above.plot(own["x"], own["mean"].where(on), ls=style, color=colour, lw=width)  # type: ignore[attr-defined]
    if solid:
        low, high = own["mean"] - own["scale"], own["mean"] + own["scale"]
        above.fill_between(own["x"], low, high, where=on, color=colour, alpha=0.13, lw=0)  # type: ignore[attr-defined]
    below.plot(own["x"], own["weight"], ls=style, color=colour, lw=width)  # type: ignore[attr-defined]


def voronoi_plane_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns kind, expert, slope, intercept, mass, cell: a row a fitted or true expert.

    Raises Refusal without the variables of `voronoi_plane`.
    """
    parts = []
    for kind, prefix, dim in (("fitted", "expert", "expert"), ("true", "true", "true_expert")):
        columns = {
            column: variable(ds, f"{prefix}_{column}", "voronoi_plane", (dim,)).values
            for column in ("slope", "intercept", "mass")
        }
        own = pd.DataFrame(columns)
        cell = variable(ds, "expert_cell", "voronoi_plane", ("expert",)).values if kind == "fitted" else own.index
        parts.append(own.assign(kind=kind, expert=range(len(own)), cell=cell))
    return pd.concat(parts, ignore_index=True)[["kind", "expert", "slope", "intercept", "mass", "cell"]]


def voronoi_plane(ds: xr.Dataset) -> Still:
    """Experts in the plane of slope and intercept: stars are true, discs fitted, their area the weight exp(b), a line
    from each to the true expert of its cell. The ground shows the cells by slope and intercept alone; gate slope and
    scale have a say too, so a disc may lie on the ground of another cell.

    Raises Refusal as `voronoi_plane_frame` does.
    """
    from gatescope.views.still import still

    frame = voronoi_plane_frame(ds)
    true, fitted = frame[frame["kind"] == "true"], frame[frame["kind"] == "fitted"]
    target = true.set_index("expert").loc[fitted["cell"], ["slope", "intercept"]].to_numpy()
    away = np.hypot(*(fitted[["slope", "intercept"]].to_numpy() - target).T)
    title = f"Furthest from its true expert: {number(float(away.max()))} in slope and intercept"
    low, high = frame[["slope", "intercept"]].min(), frame[["slope", "intercept"]].max()
    room = 0.15 * (high - low) + 0.3
    (x0, y0), (x1, y1) = (low - room).to_numpy(), (high + room).to_numpy()
    with still(title, [_GROUND, *context(ds, "expert_slope")], height=4.6) as (figure, axes):
        grid = np.stack(np.meshgrid(np.linspace(x0, x1, 240), np.linspace(y0, y1, 240)), -1)
        nearest = ((grid[:, :, None] - true[["slope", "intercept"]].to_numpy()) ** 2).sum(-1).argmin(-1)
        colours = [category(place) for place in range(len(true))]
        axes.contourf(
            grid[..., 0], grid[..., 1], nearest, levels=np.arange(len(true) + 1) - 0.5, colors=colours, alpha=0.13
        )
        for (_, row), end in zip(fitted.iterrows(), target, strict=True):
            axes.plot([row["slope"], end[0]], [row["intercept"], end[1]], color=INK, lw=0.8)
            share = row["mass"] / fitted["mass"].sum()
            axes.plot(row["slope"], row["intercept"], "o", color=category(int(row["cell"])), mec=INK,
                      ms=5 + 16 * np.sqrt(share), alpha=0.85)  # fmt: skip
        axes.plot(true["slope"], true["intercept"], "*", color="white", mec=INK, ms=13, label="true")
        axes.plot([], [], "o", color=FAINT, mec=INK, label="fitted")
        axes.set(xlabel="slope a", ylabel="intercept c", xlim=(x0, x1), ylim=(y0, y1))
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


_GROUND = (
    "Ground: cells by slope and intercept alone. Colours and lines: cells by gate slope, slope, intercept and scale"
)


def _counts(ds: xr.Dataset) -> dict[int, int]:
    cells, counts = np.unique(ds["expert_cell"].values, return_counts=True)
    return dict(zip(cells.tolist(), counts.tolist(), strict=True))
