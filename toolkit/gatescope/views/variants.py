"""One metric compared over variants, with every seed in sight."""

from __future__ import annotations

import math
from textwrap import fill
from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from gatescope.dims import axis_label
from gatescope.errors import Refusal
from gatescope.intervals import t_interval
from gatescope.views.select import context, labels, long_frame, quantity, variable
from gatescope.views.style import COMPARED, INK, STRONG, number

if TYPE_CHECKING:
    from gatescope.views.still import Still

#: Characters of a variant's name in a line: a study names it by all that it varies, and the axes need their room.
_LABEL = 40


def variant_strip_frame(ds: xr.Dataset, metric: str, baseline: str | None = None) -> pd.DataFrame:
    """Columns variant, seed, the metric, and per variant: mean, low, high, ratio.

    low and high bound the mean with 95 % confidence: `intervals.t_interval` over the seeds that a variant has, none of
    them NaN; a variant without any has NaN throughout.
    ratio is the mean over the mean of ``baseline`` (the first variant unless named).
    Raises Refusal without the metric, with dims other than variant and seed, or for an unknown baseline.
    """
    data = variable(ds, metric, "variant_strip")
    if "variant" not in data.dims or not set(data.dims) <= {"variant", "seed"}:
        variable(ds, metric, "variant_strip", ("variant", "seed"))
    if "seed" not in data.dims:
        data = data.expand_dims("seed")
    data = data.transpose("variant", "seed").assign_coords(variant=labels(data, "variant"))
    names = labels(data, "variant")
    baseline = names[0] if baseline is None else baseline
    if baseline not in names:
        raise Refusal("variant_strip", f"a baseline of {names}", repr(baseline), "name one of the record's variants")
    frame = long_frame(data, metric)
    seeds = {name: group.dropna().to_numpy() for name, group in frame.groupby("variant", sort=False)[metric]}
    intervals = {name: t_interval(values) if len(values) else (math.nan,) * 3 for name, values in seeds.items()}
    mean, low, high = (frame["variant"].map({name: found[i] for name, found in intervals.items()}) for i in range(3))
    reference = frame.loc[frame["variant"] == baseline, metric].mean()
    return frame.assign(mean=mean, low=low, high=high, ratio=mean / reference)


def variant_strip(ds: xr.Dataset, metric: str, baseline: str | None = None) -> Still:
    """A metric over variants: every seed a point, the mean a bar with its 95 % interval, its ratio to the baseline.

    Raises Refusal as `variant_strip_frame` does.
    """
    from gatescope.views.still import still

    frame = variant_strip_frame(ds, metric, baseline)
    rows = frame.drop_duplicates("variant")
    names = rows["variant"].astype(str).tolist()
    baseline = names[0] if baseline is None else baseline
    seeds = frame["seed"].nunique()
    other = rows[rows["variant"] != baseline]
    title = f"{quantity(ds[metric])}: {baseline} {number(rows.loc[rows['variant'] == baseline, 'mean'].iloc[0])}"
    if len(other):
        least = other.loc[(other["ratio"] - 1).abs().idxmax()]
        title += f"; furthest from it {least['variant']} with {number(least['mean'])} ({number(least['ratio'])}\u00a0×)"
    note = f"{seeds} seeds; bars: 95 % interval of the mean (Student's t)" if seeds > 1 else "one seed: no interval"
    with still(title, [note, *context(ds, metric)], height=1.7 + 0.45 * len(names)) as (figure, axes):
        places = frame["variant"].astype(str).map(names.index)
        axes.plot(frame[metric], places, "o", color=COMPARED, ms=7, alpha=0.7, mec="white", label="one seed")
        known = rows[rows["low"].notna()]
        axes.hlines(known["variant"].astype(str).map(names.index), known["low"], known["high"], color=INK, lw=1.5)
        axes.plot(rows["mean"], range(len(names)), "|", color=INK, ms=18, mew=2.5, label="mean")
        reference = rows.loc[rows["variant"] == baseline, "mean"].iloc[0]
        axes.axvline(reference, color=STRONG, ls="--", lw=1.2, label=fill(baseline, _LABEL))
        ticks = [fill(f"{name}  ({number(ratio)} ×)", _LABEL) for name, ratio in zip(names, rows["ratio"], strict=True)]
        axes.set_yticks(range(len(names)), ticks)
        axes.set(xlabel=quantity(ds[metric]), ylabel=axis_label("variant"), ylim=(len(names) - 0.5, -0.5))
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
