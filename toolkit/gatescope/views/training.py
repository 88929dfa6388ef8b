"""Training: a variable over steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.views.select import context, long_frame, quantity, variable
from gatescope.views.style import category, number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_LINES = ("variant", "seed")


def curves_frame(ds: xr.Dataset, name: str) -> pd.DataFrame:
    """Columns step, (variant, seed,) and the variable: the points of every line.

    Raises Refusal without the variable, or when it has dims other than step, variant and seed.
    """
    data = variable(ds, name, "curves")
    lines = [dim for dim in _LINES if dim in data.dims]
    return long_frame(variable(ds, name, "curves", (*lines, "step")), name)


def curves(ds: xr.Dataset, name: str) -> Figure:
    """A variable over training steps: a colour a variant, a thin line a seed; a gap where a value is NaN.

    Raises Refusal as `curves_frame` does.
    """
    import plotly.graph_objects as go

    from gatescope.views.hover import hover_figure

    frame = curves_frame(ds, name)
    lines = [dim for dim in _LINES if dim in frame]
    groups = list(frame.groupby(lines, sort=False)) if lines else [((), frame)]
    variants = list(dict.fromkeys(frame["variant"])) if "variant" in frame else [name]
    traces, seen = [], set()
    for labels, rows in groups:
        variant = rows["variant"].iloc[0] if "variant" in frame else name
        which = ", ".join(f"{dim} {label}" for dim, label in zip(lines, labels, strict=True)) or name
        traces.append(
            go.Scatter(
                x=rows["step"],
                y=rows[name],
                mode="lines+markers" if len(rows) < 30 else "lines",
                name=str(variant),
                legendgroup=str(variant),
                showlegend=variant not in seen,
                line={"color": category(variants.index(variant)), "width": 1.5 if "seed" in frame else 2.5},
                hovertemplate=f"{which}<br>step %{{x}}: %{{y:.4g}}<extra></extra>",
            )
        )
        seen.add(variant)
    last = (
        frame.dropna().groupby("variant", sort=False)[name].last() if "variant" in frame else frame.dropna()[name][-1:]
    )
    ends = ", ".join(
        f"{variant if 'variant' in frame else 'now'} {number(value)}" for variant, value in list(last.items())[:4]
    )
    return hover_figure(
        traces,
        title=f"{quantity(ds[name])} over training: {ends or 'nothing yet'}",
        context=context(ds, name),
        height=340,
        showlegend="variant" in frame,
        xaxis={"title": axis_label("step"), "showgrid": True},
        yaxis={"title": quantity(ds[name]), "showgrid": True},
    )
