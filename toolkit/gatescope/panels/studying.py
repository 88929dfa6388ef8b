"""A study as it stands in its store: points over their axes, variants over seeds, verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import ipywidgets
import pandas as pd
import xarray as xr

from gatescope import views
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.studies import Grid, Store, expand, load
from gatescope.studies.effects import effects
from gatescope.studies.gather import by_variant, gather, metrics, table
from gatescope.studies.keeping import kept, kept_grid, kept_table
from gatescope.views.style import card, cell

_ALL = "all points"
_COLUMNS = ("label", "n", "value", "mean", "low", "high", "corrected", "verdict")
_HEADS = ("variant", "n", "mean", "effect", "low", "high", "p (Holm)", "verdict")
#: Characters of a variant's name in a line of the table, which must fit its cell.
_LABEL = 36


class StudyPanel(Panel):
    """Controls ``metric`` and ``where`` (points with one value of an axis). A store can be read again by a button, so
    that a panel may be open while the study runs; a kept record stays as it is."""

    slug = "study"
    pictures = ("parallel_points", "variant_strip", "effects")

    def __init__(self, grid: Grid, source: Store | xr.Dataset) -> None:
        self._grid, self._source = grid, source
        self._read()
        names = list(map(str, self._metrics.data_vars))
        controls = {
            "metric": ipywidgets.Dropdown(options=names, description="Metric"),
            "where": ipywidgets.Dropdown(options=self._places(), description="Where"),
        }
        self.again = self._button("Read the store again", "again", self._reread)
        super().__init__(controls, extra=[self.again] if isinstance(source, Store) else [])
        self.refresh()

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """Lines over the axes, the strip of variants, the table of effects."""
        metric, where = state["metric"], state["where"]
        found = self._metrics
        if where != _ALL:
            axis, _, value = where.partition(" = ")
            found = found.isel(point=[str(held) == value for held in found[axis].values])
        lines = found.drop_vars(["variant", self._grid.study.replicate])
        strip = by_variant(self._grid, found)
        rows = self._effects(metric, set(strip.variant.values.tolist()))
        missing = len(self._grid.points) - self._metrics.sizes["point"]
        note = f"variant minus control, paired by {self._grid.study.replicate}; {missing} of {len(self._grid.points)}"
        told = [[fill(label, _LABEL), *map(cell, numbers)] for label, *numbers in rows.itertuples(index=False)]
        body = views.style.table(_HEADS, told)
        return {
            "parallel_points": Drawing(
                views.parallel_points(lines, metric), views.parallel_points_frame(lines, metric)
            ),
            "variant_strip": Drawing(views.variant_strip(strip, metric), views.variant_strip_frame(strip, metric)),
            "effects": Drawing(card(metric, [f"{note} points are missing"], body, "gs-study-numbers"), rows),
        }

    def _effects(self, metric: str, variants: set[str]) -> pd.DataFrame:
        (meant,) = (one for one in self._grid.study.metrics if one.name == metric)
        found = [effect for effect in effects(self._grid, self._table, meant) if effect.label in variants]
        return pd.DataFrame([{name: getattr(effect, name) for name in _COLUMNS} for effect in found])

    def _read(self) -> None:
        if isinstance(self._source, Store):
            record = gather(self._grid, self._source)
            self._table, self._metrics = table(self._grid, record), metrics(self._grid, record)
        else:
            self._table, self._metrics = kept_table(self._source), self._source

    def _reread(self) -> None:
        self._read()
        self._controls["where"].options = self._places()
        self.refresh()

    def _places(self) -> list[str]:
        """ "axis = value" for every value that some points have and others have not."""
        replicate, found = self._grid.study.replicate, [_ALL]
        for name, coord in self._metrics.coords.items():
            values = list(dict.fromkeys(coord.values.tolist()))
            if name not in ("point", "variant", replicate) and len(values) > 1:
                found += [f"{name} = {value}" for value in values]
        return found


def study(
    name: str | Path, overrides: Sequence[str] = (), only: Sequence[str] = (), store: str | Path | None = None
) -> StudyPanel:
    """A panel over the finished points of a study, named as for `gatescope study`.

    Raises Refusal for an unknown study or axis, and when no point is finished.
    """
    meant = load(name)
    grid = expand(meant, overrides, only)
    return StudyPanel(grid, Store.of(meant) if store is None else Store(store))


def kept_study(name: str) -> StudyPanel:
    """The same panel over the record of a study that lies in data/. Raises DataError when it is missing or changed."""
    record = kept(name)
    return StudyPanel(kept_grid(name, record), record)


__all__ = ["StudyPanel", "kept_study", "study"]
