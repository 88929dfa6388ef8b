"""How a large value comes about: laws through the series they were fitted to, and which part of a block writes it."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.views.select import context, labels, long_frame, quantity, variable
from gatescope.views.style import COMPARED, FAINT, INK, STRONG, category, number

if TYPE_CHECKING:
    from gatescope.views.still import Still


def law_fit_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns law, step, value, law_value, residual: the points, every law at their steps, and what it leaves over.

    Raises Refusal without series_value(step) and law_value(law, step).
    """
    law = variable(ds, "law_value", "law_fit", ("law", "step")).assign_coords(law=labels(ds["law_value"], "law"))
    points = long_frame(variable(ds, "series_value", "law_fit", ("step",)), "value")
    frame = long_frame(law, "law_value").merge(points, on="step")
    return frame.assign(residual=frame["value"] - frame["law_value"])[["law", "step", "value", "law_value", "residual"]]


def law_fit(ds: xr.Dataset) -> Still:
    """A series over training steps with laws drawn through it, and below what the laws leave over; the title has the
    share of variance that each explains. Raises Refusal as `law_fit_frame` does.
    """
    from gatescope.views.still import stills

    frame = law_fit_frame(ds)
    groups = list(frame.groupby("law", sort=False))
    explained = ", ".join(f"{law} {number(_r2(own))}" for law, own in groups)
    notes = context(ds, "series_value")
    with stills(f"R² of {explained}", notes, rows=2, columns=1, height=5.6) as (figure, (above, below)):
        first = groups[0][1]
        above.plot(first["step"], first["value"], "o", color=INK, ms=4, label="measured")
        below.axhline(0, color=FAINT, lw=1)
        for place, (law, own) in enumerate(groups):
            colour = STRONG if len(groups) == 1 else category(place)
            above.plot(own["step"], own["law_value"], color=colour, lw=2, label=str(law))
            below.plot(own["step"], own["residual"], "o-", color=colour, ms=3, lw=0.8)
        above.set(ylabel=textwrap.fill(quantity(ds["series_value"]), 20))
        below.set(xlabel=axis_label("step"), ylabel="measured less law")
        figure.legend(loc="outside lower center", ncols=4)
    return figure


def _r2(frame: pd.DataFrame) -> float:
    around = float(((frame["value"] - frame["value"].mean()) ** 2).sum())
    return 1 - float((frame["residual"] ** 2).sum()) / around if around else float("nan")


def written_profile_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns layer, formed_value, written_attention, written_mlp. Raises Refusal without one of them."""
    first, *others = (long_frame(variable(ds, name, "written_profile", ("layer",))) for name in _WRITTEN)
    for other in others:
        first = first.merge(other, on="layer")
    return first


_WRITTEN = ("formed_value", "written_attention", "written_mlp")


def written_profile(ds: xr.Dataset) -> Still:
    """One place of the residual stream by layer: its value, and what attention and MLP of each block add to it, on an
    axis that is linear near 0 and logarithmic beyond. Raises Refusal as `written_profile_frame` does.
    """
    from gatescope.views.still import still, whole_axis

    frame = written_profile_frame(ds)
    parts = {"attention": frame["written_attention"], "MLP": frame["written_mlp"]}
    largest = {part: values.abs().max() for part, values in parts.items()}
    part = max(largest, key=lambda name: largest[name])
    row = frame.loc[parts[part].abs().idxmax()]
    title = f"The {part} of layer {row['layer']:.0f} adds {number(parts[part][row.name])} in one place"
    with still(title, context(ds, "formed_value"), height=4.6) as (figure, axes):
        places = np.asarray(frame["layer"], dtype=float)
        axes.bar(places - 0.2, parts["attention"], 0.4, color=COMPARED, label="what attention adds")
        axes.bar(places + 0.2, parts["MLP"], 0.4, color=STRONG, label="what the MLP adds")
        axes.plot(places, frame["formed_value"], "-o", color=INK, ms=3, lw=1, label="value after the block")
        axes.set_yscale("symlog", linthresh=10)
        axes.set(xlabel=axis_label("layer"), ylabel=quantity(ds["formed_value"]))
        whole_axis(axes.xaxis)
        figure.legend(loc="outside lower center", ncols=3)
    return figure
