"""The panel of lesson 05: a trained model under another clock."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import ipywidgets
import pandas as pd
import xarray as xr
from gatescope import views
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.views.style import Html, card, number, table

from gatescope_lessons.l05_the_gate_as_a_clock.live import task_of, turned
from gatescope_lessons.l05_the_gate_as_a_clock.runs import TRAINED, Run, load

SPEEDS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0)
PAIRS = (2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
_STATES = ("linear", "fixed", "scalar", "gla", "delta", "hybrid", "gla_k32")
#: Name on the page -> variant and the task it was trained on; those without a state to decay are left out.
MODELS: dict[str, tuple[str, str]] = {
    f"{variant}, trained on {task}": (variant, task)
    for task in ("3 segments", "16 pairs")
    for variant in TRAINED[task]
    if variant in _STATES
}


class ClockPanel(Panel):
    """Controls ``speed`` (of the decay gates), ``pairs``, ``segments`` and ``model``; every move runs the model."""

    slug = "clock"
    pictures = ("numbers", "token_strip", "influence_map")

    def __init__(self, **settings: Any) -> None:
        self._model = cache(lambda name: load(Run(*MODELS[name], 0)))
        self._learned = cache(lambda name, task: turned(self._model(name), task, 1.0))
        style, wide = {"description_width": "130px"}, {"width": "60%"}
        super().__init__(
            {
                "speed": ipywidgets.SelectionSlider(
                    options=SPEEDS, value=1.0, description="Speed of the clock", style=style, layout=wide
                ),
                "pairs": ipywidgets.SelectionSlider(
                    options=PAIRS, value=5, description="Pairs", style=style, layout=wide
                ),
                "segments": ipywidgets.IntSlider(3, min=1, max=4, description="Segments", style=style, layout=wide),
                "model": ipywidgets.Dropdown(options=list(MODELS), description="Model", style=style, layout=wide),
            }
        )
        self.apply(**settings)
        self._defaults = self.state

    def draw(self, state: Mapping[str, Any]) -> Iterator[dict[str, Drawing]]:
        """The numbers at this speed beside those at speed 1, then what the gate keeps, and who is read."""
        task, name = task_of(state["pairs"], state["segments"]), state["model"]
        learned, record = self._learned(name, task), turned(self._model(name), task, state["speed"])
        frame = _numbers(record, learned)
        yield {"numbers": Drawing(_card(name, record, frame), frame)}
        yield {
            "token_strip": Drawing(views.token_strip(record, "kept"), views.token_strip_frame(record, "kept")),
            "influence_map": Drawing(views.influence_map(record), views.influence_map_frame(record)),
        }


def clock_panel(**settings: Any) -> ClockPanel:
    """A panel that runs a trained model under another clock, opened at ``settings`` of its controls."""
    return ClockPanel(**settings)


def _numbers(record: xr.Dataset, learned: xr.Dataset) -> pd.DataFrame:
    rows = [("accuracy", record.attrs["accuracy"], learned.attrs["accuracy"])]
    parts = list(zip(record.attrs["accuracy_by_segment"], learned.attrs["accuracy_by_segment"], strict=True))
    if len(parts) > 1:
        rows += [(f"accuracy, segment {place}", *both) for place, both in enumerate(parts, 1)]
    rows.append(("half-life between boundaries, tokens", record.attrs["half_life"], learned.attrs["half_life"]))
    if not math.isnan(record.attrs["kept_at_boundary"]):
        rows.append(("kept at a boundary", record.attrs["kept_at_boundary"], learned.attrs["kept_at_boundary"]))
    return pd.DataFrame(rows, columns=["quantity", "now", "as learned"])


def _card(name: str, record: xr.Dataset, frame: pd.DataFrame) -> Html:
    rows = [[row.quantity, *(_said(value) for value in row[2:])] for row in frame.itertuples()]
    title = f"{name}: {number(record.attrs['accuracy'])} of the questions answered"
    notes = [record.attrs["note"], "64 held-out sequences; guessing a value: 0.016"]
    return card(title, notes, table(["", "now", "as learned"], rows), "gs-clock-card")


def _said(value: float) -> str:
    return "nothing is ever lost" if math.isinf(value) else number(value)


__all__ = ["MODELS", "PAIRS", "SPEEDS", "ClockPanel", "clock_panel"]
