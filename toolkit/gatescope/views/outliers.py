"""What outliers cost: the error of activations rounded to int8, by layer and by what shares one scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.views.select import context, labels, long_frame, quantity, variable
from gatescope.views.style import FAINT, PAPER, category, number

if TYPE_CHECKING:
    from gatescope.views.still import Still

_STYLES = ("-o", "--s", ":^", "-.d")


def outlier_profile_frame(ds: xr.Dataset) -> pd.DataFrame:
    """Columns layer, site, scaling, int8_error: a row a point.

    Raises Refusal without int8_error(layer, site, scaling).
    """
    return long_frame(_errors(ds))


def outlier_profile(ds: xr.Dataset) -> Still:
    """Relative error of int8 activations by layer on a log axis: a colour a scaling, a line style a site.

    Raises Refusal without int8_error(layer, site, scaling).
    """
    from gatescope.views.still import still, whole_axis

    data = _errors(ds)
    sites, scalings = labels(data, "site"), labels(data, "scaling")
    with still(_finding(outlier_profile_frame(ds), scalings), context(ds, "int8_error"), height=4.8) as (figure, axes):
        for place, site in enumerate(sites):
            for shade, scaling in enumerate(scalings):
                axes.plot(
                    labels(data, "layer"),
                    data.isel(site=place, scaling=shade),
                    _STYLES[place % len(_STYLES)],
                    color=category(shade),
                    ms=5,
                    mfc=PAPER,
                    label=f"one scale a {scaling}" + (f", {site}" if len(sites) > 1 else ""),
                )
        if (baseline := data.attrs.get("baseline_value")) is not None:
            axes.axhline(baseline, color=FAINT, ls="--", lw=1.2, label="baseline")
        axes.set(xlabel=axis_label("layer"), ylabel=f"{quantity(data)} (log axis)")
        if (data > 0).any():
            axes.set_yscale("log", nonpositive="mask")
        whole_axis(axes.xaxis)
        figure.legend(loc="outside lower center", ncols=len(sites) if len(sites) > 1 else len(scalings))
    return figure


def _errors(ds: xr.Dataset) -> xr.DataArray:
    return variable(ds, "int8_error", "outlier_profile", ("layer", "site", "scaling"))


def _finding(frame: pd.DataFrame, scalings: list[str]) -> str:
    """The worst error under every scaling, and where the overall worst stands."""
    worst = frame.groupby("scaling")["int8_error"].max().reindex(scalings)
    parts = ", ".join(f"{number(error)} with one scale a {scaling}" for scaling, error in worst.items())
    if frame["int8_error"].isna().all():
        return f"Largest error of int8 activations: {parts}"
    top = frame.loc[frame["int8_error"].idxmax()]
    return f"Largest error of int8 activations: {parts}; the worst in layer {top['layer']}"
