"""All finished points of a grid as one labelled dataset, and the metrics of a study as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from gatescope import records
from gatescope.errors import DataError, Refusal
from gatescope.studies.expand import Grid
from gatescope.studies.spec import Metric, nearest
from gatescope.studies.store import Store


def gather(grid: Grid, store: Store) -> xr.Dataset:
    """One record along dim ``point``, in the grid's order: label the address, the config's fields as coordinates.

    A field that is called as one of the record's dimensions has ``config_`` before its name. ``seconds`` is what a
    point took. Attributes: ``study``, the number of points that are ``missing``, and addresses whose records are
    ``damaged`` and left out. Raises Refusal when no point is finished.
    """
    done = store.finished()
    found, damaged = [], []
    for point in (point for point in grid.points if point.address in done):
        try:
            found.append((point, store.record(point.address), store.about(point.address)["seconds"]))
        except (DataError, KeyError):
            damaged.append(point.address)
    if not found:
        got = f"none of {len(grid.points)}" + (f"; {len(damaged)} damaged" if damaged else "")
        step = f"gatescope study run {grid.study.name}"
        raise Refusal(f"study {grid.study.name}", "finished points", got, step)
    joined = records.concat([record for _, record, _ in found], "point", [point.address for point, _, _ in found])
    columns: dict[str, list[Any]] = {name: [point.config[name] for point, _, _ in found] for name in found[0][0].config}
    columns["seconds"] = [seconds for _, _, seconds in found]
    taken = set(map(str, joined.dims)) | set(map(str, joined.data_vars))
    labels = {
        f"config_{name}" if name in taken else name: ("point", _column(values)) for name, values in columns.items()
    }
    joined = joined.drop_vars([name for name in labels if name in joined.coords]).assign_coords(labels)
    about = {"study": grid.study.name, "missing": len(grid.points) - len(found), "damaged": damaged}
    return records.merge([joined], **{**joined.attrs, **about})


def table(grid: Grid, record: xr.Dataset) -> pd.DataFrame:
    """One row a point of `gather`: address, the fields of the config, seconds, and every metric of the study.

    A metric whose variable no point has yet is NaN. Raises Refusal for dimensions that a metric does not reduce.
    """
    names = [*grid.points[0].config, "seconds"]
    names = [name if name in record.coords and record[name].dims == ("point",) else f"config_{name}" for name in names]
    labels = {name: record[name].values for name in names}
    frame = pd.DataFrame({"address": record.point.values, **labels})
    for metric in grid.study.metrics:
        held = metric.variable in record
        frame[metric.name] = reduced(metric, record).values if held else np.nan
    return frame


def metrics(grid: Grid, record: xr.Dataset) -> xr.Dataset:
    """The metrics of a study that its points have, as a record along ``point``, each with its definition; coordinates
    are the fields of the config but the replicate, the replicate, and ``variant``, a config in words.

    Raises Refusal for dimensions that a metric does not reduce.
    """
    frame = table(grid, record)
    found = {}
    for metric in grid.study.metrics:
        if metric.variable in record:
            about = dict(record[metric.variable].attrs)
            about["long_name"] += metric.reduction
            found[metric.name] = ("point", frame[metric.name].to_numpy(dtype=float), about)
    configs = {point.address: dict(point.config) for point in grid.points}
    replicate = grid.study.replicate
    words = []
    for address in frame["address"]:
        rest = {key: value for key, value in configs[address].items() if key != replicate}
        words.append(grid.label(rest))
    fields = {name: ("point", frame[name].to_numpy()) for name in configs[frame["address"].iloc[0]] if name in frame}
    labels = {"point": record.point.values, "variant": ("point", np.array(words, dtype=str)), **fields}
    shared = {
        key: record.attrs[key] for key in ("T", "n_samples", "n_tokens", "gatescope_schema") if key in record.attrs
    }
    return xr.Dataset(found, coords=labels, attrs=shared)


def by_variant(grid: Grid, found: xr.Dataset) -> xr.Dataset:
    """`metrics` along ``variant`` and the replicate, NaN where a replicate is missing."""
    replicate = grid.study.replicate
    order = list(dict.fromkeys(found.variant.values.tolist()))
    bare = found.drop_vars([name for name in found.coords if name not in ("point", "variant", replicate)])
    wide = bare.set_index(point=["variant", replicate]).unstack("point").reindex(variant=order)
    return wide.assign_attrs(found.attrs)


def reduced(metric: Metric, record: xr.Dataset) -> xr.DataArray:
    """The metric's variable with its dimensions reduced, one number a point.

    Raises Refusal for a variable, a dimension or a label that the record does not have, and for dimensions left over.
    """
    where, known = f"metric {metric.name}", list(map(str, record.data_vars))
    if metric.variable not in known:
        raise Refusal(where, "a variable of the records", repr(metric.variable), nearest(metric.variable, known))
    values = record[metric.variable].astype("float64")
    for dim in (*metric.at, *metric.over):
        if dim not in values.dims:
            raise Refusal(where, f"dims among {values.dims}", repr(dim), nearest(dim, list(map(str, values.dims))))
    for dim, label in metric.at.items():
        labels = values[dim].values.tolist()
        if label not in labels:
            raise Refusal(where, f"a label of {dim} among {labels}", repr(label), "choose one of them")
        values = values.sel({dim: label}, drop=True)
    for dim, rule in metric.over.items():
        values = (
            values.isel({dim: 0 if rule == "first" else -1})
            if rule in ("first", "last")
            else getattr(values, rule)(dim)
        )
    left = [str(dim) for dim in values.dims if dim != "point"]
    if left:
        raise Refusal(where, f"every dimension of {metric.variable} reduced", f"{left} left", "add them to `over`")
    return values


def _column(values: Sequence[Any]) -> np.ndarray:
    """Numbers as numbers, text as text; None is NaN among numbers and "none" among words, the rest is JSON."""
    kinds = {type(value) for value in values} - {type(None)}
    if kinds in ({int}, {bool}) and None not in values:
        return np.array(values)
    if kinds <= {int, float}:
        return np.array([np.nan if value is None else value for value in values], dtype=float)
    words = ["none" if value is None else value if isinstance(value, str) else json.dumps(value) for value in values]
    return np.array(words, dtype=str)


__all__ = ["by_variant", "gather", "metrics", "reduced", "table"]
