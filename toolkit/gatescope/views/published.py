"""Published numbers beside measured ones: where the order carries over, and where it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from gatescope.errors import Refusal
from gatescope.intervals import t_interval
from gatescope.views.select import context, labels, quantity, variable
from gatescope.views.style import COMPARED, INK, category, number

if TYPE_CHECKING:
    from gatescope.views.still import Still


def published_scatter_frame(ds: xr.Dataset, metric: str, published: Mapping[str, float]) -> pd.DataFrame:
    """One row a variant of ``published`` that the record has: variant, published, mean, low, high.

    low and high bound the mean with 95 % confidence, `intervals.t_interval` over seeds. Raises Refusal without the
    metric, with dims other than variant and seed, and when fewer than two variants are in both.
    """
    data = variable(ds, metric, "published_scatter", ("variant", "seed"))
    names = labels(data, "variant")
    shared = [name for name in published if name in names]
    if len(shared) < 2:
        got = ", ".join(shared) or "none"
        raise Refusal("published_scatter", "two variants or more with a published number", got, f"choose of {names}")
    data = data.assign_coords(variant=names)
    rows = [(name, published[name], *t_interval(data.sel(variant=name).dropna("seed").values)) for name in shared]
    return pd.DataFrame(rows, columns=["variant", "published", "mean", "low", "high"])


def published_scatter(ds: xr.Dataset, metric: str, published: Mapping[str, float]) -> Still:
    """Every variant a point: its published number across, the mean here with its interval upwards.

    Raises Refusal as `published_scatter_frame`.
    """
    from gatescope.views.still import still

    frame = published_scatter_frame(ds, metric, published)
    order = float(frame["published"].corr(frame["mean"], method="spearman"))
    seeds = ds[metric].sizes["seed"]
    notes = [f"mean of {seeds} seeds with its 95 % interval (Student's t)", *context(ds, metric)]
    title = f"{quantity(ds[metric])}: rank correlation of {len(frame)} variants with the published ones {number(order)}"
    with still(title, notes, height=4.6) as (figure, axes):
        for place, row in enumerate(frame.itertuples(index=False)):
            colour = category(place)
            axes.plot(row.published, row.mean, "o", color=colour, ms=9, mec="white", label=row.variant)
            if row.low == row.low:
                axes.vlines(row.published, row.low, row.high, color=INK, lw=1.5)
        ends = [0, frame["published"].max()]
        axes.plot(ends, ends, ls="--", lw=1, color=COMPARED, label="the same number")
        axes.set(xlabel="published", ylabel=f"here: {quantity(ds[metric])}")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


__all__ = ["published_scatter", "published_scatter_frame"]
