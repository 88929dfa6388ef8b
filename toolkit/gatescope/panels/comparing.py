"""Variants side by side on a metric of choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets
import pandas as pd
import xarray as xr

from gatescope import views
from gatescope.errors import Refusal
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.views.select import labels
from gatescope.views.style import card, cell, table

_REDUCTIONS = ("mean", "max", "min")


class ComparePanel(Panel):
    """Controls ``metric``, ``reduce`` (how layers and heads become one number) and ``baseline``."""

    slug = "compare"
    pictures = ("variant_strip", "table")

    def __init__(self, record: xr.Dataset, metric: str | None = None) -> None:
        self._record = record
        metrics = [str(name) for name, data in record.data_vars.items() if _comparable(data)]
        if not metrics:
            raise Refusal(
                "compare",
                "a record with numbers along variant",
                f"{dict(record.sizes)}",
                "join records with records.concat(..., dim='variant', labels=...)",
            )
        if metric is not None and metric not in metrics:
            raise Refusal("compare", f"a metric of {', '.join(metrics)}", repr(metric), "choose one of them")
        variants = [str(name) for name in labels(record, "variant")]
        controls = {
            "metric": ipywidgets.Dropdown(options=metrics, value=metric or metrics[0], description="Metric"),
            "reduce": ipywidgets.Dropdown(options=_REDUCTIONS, description="Over heads"),
            "baseline": ipywidgets.Dropdown(options=variants, description="Baseline"),
        }
        super().__init__(controls)
        self.refresh()

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """The strip of variants and its table."""
        metric, baseline = state["metric"], state["baseline"]
        data = self._record[metric].astype("float64")
        over = [dim for dim in data.dims if dim not in ("variant", "seed")]
        reduced = getattr(data, state["reduce"])(over, keep_attrs=True) if over else data
        if over:
            reduced.attrs["long_name"] = (
                f"{data.attrs.get('long_name', metric)}, {state['reduce']} over {', '.join(over)}"
            )
        record = reduced.to_dataset(name=metric).assign_attrs(self._record.attrs)
        frame = views.variant_strip_frame(record, metric, baseline)
        heads, rows = _wide(frame, metric)
        title = f"The same numbers as a table; ratio is to {baseline}"
        return {
            "variant_strip": Drawing(views.variant_strip(record, metric, baseline), frame),
            "table": Drawing(card(title, [], table(heads, rows), "gs-compare-numbers"), frame),
        }


def compare(record: xr.Dataset, metric: str | None = None) -> ComparePanel:
    """A panel over a record with dims variant and, where there are several, seed.

    Raises Refusal for a record without numbers along variant, or without the metric.
    """
    return ComparePanel(record, metric)


def _wide(frame: pd.DataFrame, metric: str) -> tuple[list[str], list[list[str]]]:
    """A row a variant: its seeds side by side, then mean, interval and ratio."""
    seeds = frame["seed"].unique().tolist()
    heads = ["variant", *(f"seed {seed}" for seed in seeds), "mean", "low", "high", "ratio"]
    rows = []
    for name, group in frame.groupby("variant", sort=False):
        summary = group.iloc[0][["mean", "low", "high", "ratio"]]
        rows.append([str(name), *map(cell, group.set_index("seed")[metric].reindex(seeds)), *map(cell, summary)])
    return heads, rows


def _comparable(data: xr.DataArray) -> bool:
    return "variant" in data.dims and data.dtype.kind in "fiub" and "bin" not in data.dims
