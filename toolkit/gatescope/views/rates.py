"""How an error falls with the number of samples, on logarithmic axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.intervals import t_interval
from gatescope.rates import rate
from gatescope.views.select import context, labels, long_frame, quantity, variable
from gatescope.views.style import FAINT, category, number

if TYPE_CHECKING:
    from gatescope.views.still import Still

_DIMS = ("variant", "seed", "sample_size")
_MARKERS = "osD^vPX*"


def rate_lines_frame(ds: xr.Dataset, name: str) -> pd.DataFrame:
    """Columns variant, seed, sample_size, the variable, and per variant: rate, low, high.

    rate is the slope of log error over log n, mean over seeds, with its 95 % interval (`intervals.t_interval`); NaN
    where an error is NaN or 0. Raises Refusal without the variable or for dims other than variant, seed, sample_size.
    """
    data = variable(ds, name, "rate_lines")
    if not {"seed", "sample_size"} <= set(data.dims) <= set(_DIMS):
        variable(ds, name, "rate_lines", _DIMS)
    if "variant" not in data.dims:
        data = data.expand_dims({"variant": [name]})
    data = data.transpose(*_DIMS).assign_coords(variant=labels(data, "variant"))
    frame = long_frame(data, name)
    found = {
        variant: t_interval([_rate(group["sample_size"], group[name]) for _, group in own.groupby("seed")])
        for variant, own in frame.groupby("variant", sort=False)
    }
    columns = {
        column: frame["variant"].map({variant: interval[place] for variant, interval in found.items()})
        for place, column in enumerate(("rate", "low", "high"))
    }
    return frame.assign(**columns)


def _rate(sizes: pd.Series, values: pd.Series) -> float:
    usable = np.isfinite(values).all() and (values > 0).all() and len(values) > 1
    return rate(sizes.to_numpy(), values.to_numpy()) if usable else float("nan")


def rate_lines(ds: xr.Dataset, name: str) -> Still:
    """An error over the sample size: a point a seed, a line through the means of the logs, the exponent in the legend;
    dashed, what n^-1/2 and n^-1/4 would do from where the first line starts.

    Raises Refusal as `rate_lines_frame` does.
    """
    from matplotlib.ticker import LogLocator

    from gatescope.views.still import still

    frame = rate_lines_frame(ds, name)
    shown = frame[np.isfinite(frame[name]) & (frame[name] > 0)]
    groups = list(shown.groupby("variant", sort=False))
    rates = frame.drop_duplicates("variant").set_index("variant")["rate"]
    found = ", ".join(f"{variant} {number(rates[variant])}" for variant, _ in groups) or "nothing above 0"
    seeds = frame["seed"].nunique()
    notes = [f"a point is the median over the data sets of one of {seeds} seeds", *context(ds, name)]
    with still(f"{quantity(ds[name])}, exponent of n: {found}", notes, height=4.6) as (figure, axes):
        for place, (variant, own) in enumerate(groups):
            colour, mark = category(place), _MARKERS[place % len(_MARKERS)]
            mean = np.exp(np.log(own.set_index("sample_size")[name]).groupby(level=0).mean())
            axes.plot(own["sample_size"], own[name], mark, color=colour, ms=5, alpha=0.45)
            low, high = own["low"].iloc[0], own["high"].iloc[0]
            interval = f" [{low:.2f}, {high:.2f}]" if np.isfinite(low) else ""
            axes.plot(mean.index, mean, color=colour, lw=2, label=f"{variant}: {rates[variant]:.2f}{interval}")
        if groups:
            sizes = np.sort(shown["sample_size"].unique()).astype(float)
            top = float(shown.loc[shown["sample_size"] == sizes[0], name].max()) * 1.25
            for power, words in ((-0.25, "n^-1/4"), (-0.5, "n^-1/2")):
                axes.plot(sizes, top * (sizes / sizes[0]) ** power, color=FAINT, ls="--", lw=1)
                axes.annotate(words, (sizes[-1], top * (sizes[-1] / sizes[0]) ** power), color=FAINT, fontsize=9,
                              xytext=(4, 0), textcoords="offset points", va="center")  # fmt: skip
            axes.legend(loc="upper left", bbox_to_anchor=(1.05, 1.0), title="exponent, 95 % interval")
        axes.set(xscale="log", yscale="log", xlabel=axis_label("sample_size"), ylabel=quantity(ds[name]))
        if groups:
            axes.set_xticks(sizes, [f"{int(size):,}" for size in sizes])
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.minorticks_off()
    return figure
