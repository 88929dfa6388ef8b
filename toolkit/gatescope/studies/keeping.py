"""A finished study as one small record in data/: every metric of every point, for lessons and for readers."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from gatescope import data, records
from gatescope.errors import Refusal
from gatescope.paths import data_dir
from gatescope.studies.expand import Grid, Point
from gatescope.studies.gather import gather, metrics
from gatescope.studies.spec import Study, load
from gatescope.studies.store import Store

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


def keep(grid: Grid, store: Store) -> Path:
    """Write `gather.metrics` of a finished study to data/measured/studies/<name>.nc, with its row in the manifest.

    A point that crashed, a run that diverged for instance, is no missing one: its config is named in the attribute
    ``crashed``. Raises Refusal while points are missing or damaged.
    """
    name = grid.study.name
    failures = store.failures()
    crashed = [point for point in grid.points if point.address in failures]
    record = gather(grid, store)
    missing = record.attrs["missing"] - len(crashed)
    if missing:
        got = f"{missing} of {len(grid.points)} missing, {len(record.damaged)} of them damaged"
        raise Refusal(f"study keep {name}", "every point finished or crashed", got, f"gatescope study run {name}")
    about = {
        "study": name,
        "title": grid.study.title,
        "crashed": [grid.label(point.config) for point in crashed],
        "code_version": grid.versions.code,
    }
    found = records.merge([metrics(grid, record)], **records.provenance(created=False), **about)
    path = records.save(found, _path(name))
    data.register(
        path,
        licence="Apache-2.0",
        made_by=f"gatescope study run {name} && gatescope study keep {name}",
        description=f"Study: {grid.study.title}",
    )
    return path


def kept(name: str) -> xr.Dataset:
    """The record in data/ of a study. Raises DataError when it is missing or changed."""
    return records.load(data.path(f"measured/studies/{name}.nc"))


def kept_grid(study: Study | str, record: xr.Dataset) -> Grid:
    """The points of a kept record as a grid, whatever the code of today is: for `effects` and panels."""
    from gatescope.studies.address import Versions
    from gatescope.studies.expand import config_defaults, resolve

    study = load(study) if isinstance(study, str) else study
    config_class = resolve(study.point)[1]
    # In the order of the config, in which labels are told.
    names = [field.name for field in fields(config_class) if field.name in record.coords]
    points = [
        Point({name: record[name].values[row].item() for name in names}, str(address))
        for row, address in enumerate(record.point.values)
    ]
    versions = Versions(str(record.attrs["code_version"]), "")
    return Grid(study, tuple(points), (), versions, config_defaults(config_class))


def kept_table(record: xr.Dataset) -> pd.DataFrame:
    """A kept record as `gather.table` has it: one row a point, its address, its config, its metrics."""
    frame = record.reset_coords().to_dataframe().reset_index().rename(columns={"point": "address"})
    return frame.drop(columns="variant")


def _path(name: str) -> Path:
    return data_dir() / "measured" / "studies" / f"{name}.nc"


__all__ = ["keep", "kept", "kept_grid", "kept_table"]
