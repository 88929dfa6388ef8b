"""The panels of lesson 08: eight experts trained live, and trained ones behind another gate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets
import pandas as pd
import xarray as xr
from gatescope import views
from gatescope.clustered import EXPERTS, STEPS, ClusterTraining, Recipe
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.panels.training import TrainPanel
from gatescope.views.style import Html, card, number, table

from gatescope_lessons.l08_routing import lab
from gatescope_lessons.l08_routing.regate import Setting, regated

_STYLE = {"description_width": "130px"}
_WIDE = {"width": "60%"}


def _drawn(record: xr.Dataset, *names: str) -> dict[str, Drawing]:
    return {name: Drawing(getattr(views, name)(record), getattr(views, f"{name}_frame")(record)) for name in names}


class RoutingPanel(TrainPanel):
    """Trains top-k experts with Start, Stop and Resume. Controls ``rule`` (of balancing) and ``k`` act on the run under
    way, at once; ``seed`` on the next one, after Reset."""

    slug = "routing"
    pictures = ("error", "expert_load_history", "group_expert_map")

    def __init__(self, *, steps: int = STEPS, **settings: Any) -> None:
        super().__init__(lambda: ClusterTraining(Recipe(), self.state["seed"], steps=steps, every=50), steps=steps)
        self.apply(**settings)
        self._defaults = self.state

    def _settings(self) -> dict[str, Any]:
        return {
            "rule": ipywidgets.Dropdown(options=list(lab.RULES), description="Balancing", style=_STYLE),
            "k": ipywidgets.IntSlider(
                1, min=1, max=EXPERTS, description="k (experts a token)", style=_STYLE, layout=_WIDE
            ),
            "seed": ipywidgets.IntSlider(0, min=0, max=9, description="Seed", style=_STYLE, layout=_WIDE),
        }

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """Give the run its settings, then draw what was seen of it so far."""
        run = self.training
        if run is None:
            return {}
        run.rule, run.k = lab.RULES[state["rule"]], state["k"]
        if not run.looks:
            return {}
        record = run.record
        error = Drawing(views.curves(record, "error"), views.curves_frame(record, "error"))
        return {
            "error": error,
            **_drawn(record, "expert_load_history"),
            **_drawn(record.isel(step=-1), "group_expert_map"),
        }

    def _loop(self, max_steps: int | None) -> bool:
        if self.training is None:
            self.training = self._keeper.take(self._make)
            self.bar.max = self.training.steps
            self.draw(self.state)
        return super()._loop(max_steps)


_THRESHOLDS: dict[str, float | None] = {
    "as trained": None,
    "0: all experts": 0.0,
    "0.001": 1e-3,
    "0.01": 1e-2,
    "0.05": 0.05,
    "0.2": 0.2,
    "1: k alone": 1.0,
}
_NUMBERS = (
    "error",
    "experts_visited",
    "experts_spread",
    "experts_dead",
    "load_violation",
    "router_entropy",
    "group_information",
)


class RegatePanel(Panel):
    """Controls ``temperature``, ``k``, ``threshold`` and ``dropped`` (experts) change the gate of a trained ``model``,
    which then runs again on held-out samples."""

    slug = "regate"
    pictures = ("numbers", "expert_load_heatmap", "group_expert_map")

    def __init__(self, **settings: Any) -> None:
        self._trained: dict[str, tuple[Any, xr.Dataset]] = {}
        controls = {
            "temperature": ipywidgets.FloatSlider(
                1.0, min=0.0, max=20.0, step=0.2, description="Temperature ×", style=_STYLE, layout=_WIDE
            ),
            "k": ipywidgets.IntSlider(1, min=1, max=EXPERTS, description="k at least", style=_STYLE, layout=_WIDE),
            "threshold": ipywidgets.SelectionSlider(
                options=list(_THRESHOLDS), description="Threshold", style=_STYLE, layout=_WIDE
            ),
            "dropped": ipywidgets.SelectMultiple(
                options=list(range(EXPERTS)), rows=EXPERTS, description="Switched off", style=_STYLE
            ),
            "model": ipywidgets.Dropdown(options=list(lab.CHECKPOINTS), description="Trained model", style=_STYLE),
        }
        super().__init__(controls)
        self.apply(**settings)
        self._defaults = self.state

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """The numbers beside those of the gate it was trained with, the loads, and who serves whom."""
        name = state["model"]
        own = self._setting(name)
        if name not in self._trained:
            model = lab.load(name)
            self._trained[name] = model, regated(model, own)
        model, trained = self._trained[name]
        threshold = _THRESHOLDS[state["threshold"]]
        setting = Setting(
            temperature=state["temperature"],
            k=state["k"],
            threshold=own.threshold if threshold is None else threshold,
            dropped=tuple(state["dropped"]),
        )
        record = regated(model, setting)
        frame = _numbers(trained, record)
        return {
            "numbers": Drawing(_card(name, setting, frame), frame),
            **_drawn(record, "expert_load_heatmap", "group_expert_map"),
        }

    def _setting(self, name: str) -> Setting:
        """The gate a variant was trained with."""
        recipe = lab.RECIPES[name]
        return Setting(k=recipe.k, threshold=1.0 if recipe.gate is None else recipe.gate.threshold)


def _numbers(trained: xr.Dataset, now: xr.Dataset) -> pd.DataFrame:
    rows = [
        (str(now[name].attrs["long_name"]), float(trained[name].squeeze()), float(now[name].squeeze()))
        for name in _NUMBERS
    ]
    return pd.DataFrame(rows, columns=["quantity", "as_trained", "now"])


def _card(name: str, setting: Setting, frame: pd.DataFrame) -> Html:
    error = frame.iloc[0]
    notes = [f"{setting.k} of {EXPERTS} experts at least; temperature × {setting.temperature:g}"]
    if setting.threshold < 1:
        notes.append(f"every expert above a probability of {setting.threshold:g} joins")
    if len(setting.dropped) == EXPERTS:
        notes.append("All experts are off: the output is 0 for every sample, and there is no routing to speak of")
    elif setting.dropped:
        notes.append(f"off: {', '.join(map(str, setting.dropped))}; a token that chose one of them does without")
    if setting.temperature == 0:
        notes.append("Temperature 0 is the limit: the best expert has probability 1, all others 0")
    title = f"{name}: error {number(error['now'])}, as trained {number(error['as_trained'])}"
    rows = [[row.quantity, number(row.as_trained), number(row.now)] for row in frame.itertuples()]
    return card(title, notes, table(["", "as trained", "now"], rows), "gs-regate-card")


def routing_panel(**settings: Any) -> RoutingPanel:
    """A panel that trains eight experts live, opened at ``settings`` of its controls."""
    return RoutingPanel(**settings)


def regate_panel(**settings: Any) -> RegatePanel:
    """A panel that puts trained experts behind another gate, opened at ``settings`` of its controls."""
    return RegatePanel(**settings)


__all__ = ["RegatePanel", "RoutingPanel", "regate_panel", "routing_panel"]
