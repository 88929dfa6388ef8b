"""Two records on a variable of choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets
import xarray as xr

from gatescope import records, views
from gatescope.dims import axis_label
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.views.differences import choices
from gatescope.views.style import card, cell, table

_STYLE = {"description_width": "80px"}
#: What the table has room for; `frame("differences")` has the rest.
_ROWS = 12
_COLUMNS = ["variable", "mean_a", "mean_b", "difference", "effect", "largest", "where"]


class RecordsPanel(Panel):
    """Controls ``metric`` and ``along``, the dims to draw along; what is not drawn is averaged.

    pair  the two records, aligned
    """

    slug = "records"
    pictures = ("difference_map", "differences")

    def __init__(self, pair: records.Pair) -> None:
        self.pair, self._table = pair, _table(pair)
        metrics = [str(name) for name in self._table.frame["variable"]]
        metric = ipywidgets.Dropdown(options=metrics, description="Variable", style=_STYLE)
        along = ipywidgets.Dropdown(options=self._options(metrics[0]), description="Along", style=_STYLE)
        metric.observe(self._fit, "value")
        super().__init__({"metric": metric, "along": along})
        self.refresh()

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """A, B and their difference, and the table of all variables."""
        given = (self.pair.record, state["metric"], state["along"])
        return {
            "difference_map": Drawing(views.difference_map(*given), views.difference_map_frame(*given)),
            "differences": self._table,
        }

    def _options(self, metric: str) -> list[tuple[str, tuple[str, ...]]]:
        found = choices(self.pair.record, metric)
        return [(" × ".join(map(axis_label, along)) or "one number", along) for along in found]

    def _fit(self, change: Mapping[str, Any]) -> None:
        """Another variable has other dims: offer these before anything is drawn."""
        held, self._held = self._held, True
        try:
            self._controls["along"].options = self._options(change["new"])
        finally:
            self._held = held


def compare_records(a: xr.Dataset, b: xr.Dataset, labels: Sequence[str] = ("A", "B")) -> RecordsPanel:
    """A panel over two records: one variable of both and its difference, on linked axes.

    Raises Refusal as `records.pair` does: for what is no record, other definitions, and nothing in common.
    """
    return RecordsPanel(records.pair(a, b, labels))


def _table(pair: records.Pair) -> Drawing:
    """All variables, which no control changes."""
    frame = records.differences(pair)
    units = frame["unit"].map(lambda unit: "" if unit == "1" else f" ({unit})")
    shown = frame.assign(variable=frame["variable"] + units).head(_ROWS)[_COLUMNS]
    rows = [[cell(value) for value in row] for row in shown.itertuples(index=False, name=None)]
    first, second = pair.labels
    heads = [{"mean_a": f"mean {first}", "mean_b": f"mean {second}"}.get(name, name) for name in _COLUMNS]
    title = "Every variable, the largest effect first"
    title += f" (the first {_ROWS} of {len(frame)})" if len(frame) > _ROWS else ""
    return Drawing(card(title, [*pair.notes, *pair.unmatched], table(heads, rows), "gs-records-all"), frame)


__all__ = ["RecordsPanel", "compare_records"]
