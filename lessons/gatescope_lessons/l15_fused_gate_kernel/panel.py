"""Choose a shape, tiles and a version of the gate, and see which program reads and writes what."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import ipywidgets
import pandas as pd
import xarray as xr
from gatescope import views
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.views.style import card, number, table

from gatescope_lessons.l15_fused_gate_kernel.interpreter import absent, available
from gatescope_lessons.l15_fused_gate_kernel.lab import VERSIONS, Setting, bytes_table, watch_gate

_SIDES = (1, 2, 4, 8, 16, 32)
_COUNTS = ("bytes moved", "bytes read", "bytes written", "programs")
#: The largest program that can be lit alone by hand.
_LAST = 255


class AccessPanel(Panel):
    """Controls ``version``, ``rows``, ``columns``, ``tile_rows``, ``tile_columns`` and ``program`` (-1 lights all, a
    number past the last lights the last); every move runs the kernels anew."""

    slug = "access"
    pictures = ("numbers", "access_map")

    def __init__(self, **settings: Any) -> None:
        style, wide = {"description_width": "130px"}, {"width": "60%"}

        def whole(value: int, low: int, high: int, words: str) -> ipywidgets.IntSlider:
            return ipywidgets.IntSlider(value, min=low, max=high, description=words, style=style, layout=wide)

        def side(value: int, words: str) -> ipywidgets.SelectionSlider:
            return ipywidgets.SelectionSlider(options=_SIDES, value=value, description=words, style=style, layout=wide)

        super().__init__(
            {
                "version": ipywidgets.Dropdown(options=VERSIONS, description="Gate", style=style),
                "rows": whole(10, 1, 24, "Rows T"),
                "columns": whole(12, 1, 32, "Columns V"),
                "tile_rows": side(4, "Rows of a tile"),
                "tile_columns": side(8, "Columns of a tile"),
                "program": whole(-1, -1, _LAST, "Only program"),
            }
        )
        self.apply(**settings)
        self._defaults = self.state

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """The bytes of this version beside the others, and the map of its memory."""
        if not available():
            return {self.pictures[0]: Drawing(absent(), pd.DataFrame())}
        sizes = {name: value for name, value in state.items() if name != "program"}
        versions = dict.fromkeys((*VERSIONS[:2], state["version"]))
        found = {version: _watched(Setting(**sizes | {"version": version})) for version in versions}
        own, frame = found[state["version"]], _numbers(found, state)
        lit = None if state["program"] < 0 else min(state["program"], own.sizes["program"] - 1)
        return {
            "numbers": Drawing(_card(frame, state), frame),
            "access_map": Drawing(views.access_map(own, lit), views.access_map_frame(own)),
        }


def access_panel(**settings: Any) -> AccessPanel:
    """A panel that watches a gate's kernels, opened at ``settings`` of its controls."""
    return AccessPanel(**settings)


@lru_cache(maxsize=16)
def _watched(setting: Setting) -> xr.Dataset:
    return watch_gate(setting)


def _numbers(found: Mapping[str, xr.Dataset], state: Mapping[str, Any]) -> pd.DataFrame:
    """`bytes_table` with programs, and the share of their lanes that have an element to do."""
    programs = [ds.sizes["program"] for ds in found.values()]
    kernels = [2 if version == VERSIONS[1] else 1 for version in found]
    lanes = state["tile_rows"] * state["tile_columns"]
    busy = [
        state["rows"] * state["columns"] * kernel / (count * lanes)
        for count, kernel in zip(programs, kernels, strict=True)
    ]
    return bytes_table(found).assign(programs=programs, busy=busy)


def _card(frame: pd.DataFrame, state: Mapping[str, Any]) -> Any:
    fused, unfused = frame["bytes moved"].iloc[0], frame["bytes moved"].iloc[1]
    title = f"Fused: {fused:,} bytes moved; two kernels: {unfused:,}, {number(unfused / fused)} times as many"
    rows = [
        [row["version"], *(f"{row[name]:,}" for name in _COUNTS), f"{100 * row['busy']:.0f} %"]
        for row in frame.to_dict("records")
    ]
    heads = ["", *_COUNTS, "lanes with an element"]
    notes = [f"Counted from every load and store on {state['rows']} x {state['columns']} float32 numbers"]
    return card(title, notes, table(heads, rows), "gs-access-card")


__all__ = ["AccessPanel", "access_panel"]
