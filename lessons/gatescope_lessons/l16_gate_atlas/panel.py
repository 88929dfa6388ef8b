"""Gates that differ in one thing, side by side, with what the paper has for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets
import xarray as xr
from gatescope import views
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.views.style import card, cell, table

from gatescope_lessons.l16_gate_atlas import lab

_SDPA: dict[str, Any] = {"position": "sdpa"}
_VALUE: dict[str, Any] = {"position": "value"}
_FUNCTIONS = ("non_sparse_sigmoid", "silu", "tanh", "linear")

#: What varies -> the gates that are compared, the control first.
VARIED: dict[str, tuple[dict[str, Any], ...]] = {
    "a score a channel or a head": (
        {},
        *(
            {"position": place, "granularity": kind}
            for place in ("sdpa", "value", "key", "query")
            for kind in ("element", "head")
        ),
    ),
    "own or shared scores (2 heads)": (
        {"n_heads": 2},
        *(
            {"position": place, "granularity": kind, "sharing": sharing, "n_heads": 2}
            for place in ("sdpa", "value")
            for kind in ("element", "head")
            for sharing in ("per_head", "shared")
        ),
    ),
    "place": ({}, *({"position": place} for place in ("sdpa", *lab.PLACES))),
    "function, after attention": ({}, _SDPA, *(_SDPA | {"activation": name} for name in _FUNCTIONS)),
    "function, on the values": ({}, _VALUE, *(_VALUE | {"activation": name} for name in _FUNCTIONS)),
    "multiplied or added, after attention": (
        {},
        *(
            _SDPA | {"activation": name, "combine": how}
            for name in ("sigmoid", "silu", "tanh", "linear")
            for how in ("multiply", "add")
        ),
    ),
    "the token read or not": (
        {},
        _SDPA,
        _SDPA | {"source": "none"},
        _SDPA | {"granularity": "head"},
        _SDPA | {"granularity": "head", "source": "none"},
        _VALUE,
        _VALUE | {"source": "none"},
    ),
}
#: What is drawn -> the paper's column for it.
METRICS = {
    "first_attention": "first_attention",
    "trigger_loss": None,
    "loss": None,
    "massive_ratio": None,
    "value_drain": None,
    "gate_mean": "gate_mean",
    "gate_closed": None,
}
_RATES = (2e-3, 5e-3, 1e-2)


class AtlasPanel(Panel):
    """Controls ``vary``, ``metric`` and ``lr``: gates that differ in one thing; every seed a point."""

    slug = "atlas"
    pictures = ("variant_strip", "numbers")

    def __init__(self, record: xr.Dataset, **settings: Any) -> None:
        self._record = record
        names = [(record[name].attrs["long_name"], name) for name in METRICS]
        wide = {"layout": {"width": "70%"}, "style": {"description_width": "90px"}}
        controls = {
            "vary": ipywidgets.SelectionSlider(options=list(VARIED), value="place", description="What varies", **wide),
            "metric": ipywidgets.Dropdown(options=names, description="Metric", **wide),
            "lr": ipywidgets.Dropdown(
                options=[(f"{rate:g}", rate) for rate in _RATES], value=lab.RATE, description="Learning rate", **wide
            ),
        }
        super().__init__(controls)
        self.apply(**settings)
        self._defaults = self.state

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """The strip, and the means with the differences to the control, seed by seed."""
        metric = state["metric"]
        chosen = lab.measured_gates(self._record, metric, VARIED[state["vary"]], state["lr"])
        frame = lab.against_control(chosen, metric, METRICS[metric])
        strip = chosen.drop_vars([name for name in chosen.coords if name not in ("variant", "seed")])
        heads = ["gate", "mean", "minus control", "low", "high", "paper"]
        rows = [[cell(value) if value == value else "" for value in row] for row in frame.itertuples(index=False)]
        notes = ["differences are paired by seed, with the 95 % interval of their mean (Student's t)"]
        title = self._record[metric].attrs["long_name"]
        return {
            "variant_strip": Drawing(views.variant_strip(strip, metric), views.variant_strip_frame(strip, metric)),
            "numbers": Drawing(card(title, notes, table(heads, rows), "gs-atlas-numbers"), frame),
        }


def atlas_panel(record: xr.Dataset, **settings: Any) -> AtlasPanel:
    """The panel over the lesson's record, opened at ``settings`` of its controls."""
    return AtlasPanel(record, **settings)


__all__ = ["METRICS", "VARIED", "AtlasPanel", "atlas_panel"]
