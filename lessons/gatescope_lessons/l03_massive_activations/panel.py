"""The panels of lesson 03: five sliders over a recorded series, and one number of SmolLM2 changed after any layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets
import pandas as pd
import xarray as xr
from gatescope import views
from gatescope.emergence import LAWS, MODULATED, Fit, fit_law
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.views.style import Html, card, number, table

from gatescope_lessons.l03_massive_activations import live
from gatescope_lessons.l03_massive_activations.lab import TEXT_NAMES
from gatescope_lessons.l03_massive_activations.live import CHANGES, changed_number, chosen, drawn_laws, judged

_STYLE = {"description_width": "150px"}
_WIDE = {"width": "60%"}
_PARAMETERS = LAWS[MODULATED].parameters
_SYMBOLS = dict(zip(_PARAMETERS, ("A", "λ", "γ", "t₀", "K"), strict=True))


class LawPanel(Panel):
    """Controls for the five parameters, ``variant``, ``seed`` and ``layer``; ``fit()`` sets the five to the best."""

    slug = "law"
    pictures = ("numbers", "law_fit")

    def __init__(self, record: xr.Dataset, **settings: Any) -> None:
        self._record, self._fits = record, dict[tuple[str, int, int], Fit]()

        def logarithmic(value: float, low: float, high: float, words: str) -> ipywidgets.FloatLogSlider:
            return ipywidgets.FloatLogSlider(
                value, min=low, max=high, step=0.05, description=words, style=_STYLE, layout=_WIDE, readout_format=".3g"
            )

        def plain(value: float, words: str) -> ipywidgets.FloatSlider:
            limits = {"min": -100.0, "max": 100.0, "step": 0.5}
            return ipywidgets.FloatSlider(
                value, **limits, description=words, style=_STYLE, layout=_WIDE, readout_format=".3g"
            )

        controls = {
            "decay": logarithmic(0.1, -9.0, 1.5, "λ (decay)"),
            "rate": logarithmic(0.05, -7.0, 5.0, "γ (rate, 1 / steps)"),
            "offset": logarithmic(1.0, -6.0, 1.5, "t₀ (offset)"),
            "amplitude": plain(5.0, "A (amplitude)"),
            "steady": plain(5.0, "K (steady value)"),
            "variant": ipywidgets.Dropdown(
                options=list(map(str, record.variant.values)), description="Trained", style=_STYLE, layout=_WIDE
            ),
            "layer": ipywidgets.IntSlider(1, min=0, max=5, description="Layer", style=_STYLE, layout=_WIDE),
            "seed": ipywidgets.Dropdown(
                options=[int(seed) for seed in record.seed.values], description="Seed", style=_STYLE
            ),
        }
        button = ipywidgets.Button(description="Fit", button_style="primary").add_class("gs-law-fit")
        button.on_click(lambda _: self._guarded(self.fit))
        super().__init__(controls, extra=[button])
        self.fit_button = button
        self.apply(**settings)
        self._defaults = self.state

    def fit(self) -> None:
        """Set the five sliders to least squares; those that end at the edge of their slider get a longer one."""
        found = self._fitted(self.state).parameters
        for name in ("amplitude", "steady"):
            control = self._controls[name]
            control.min, control.max = min(control.min, found[name]), max(control.max, found[name])
        for name in ("decay", "rate", "offset"):
            control = self._controls[name]
            found[name] = min(max(found[name], 10.0**control.min), 10.0**control.max)
        self.apply(**found)

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """The numbers of the law as set beside those of the fit, and the law through the series."""
        best = self._fitted(state)
        parameters = {name: float(state[name]) for name in _PARAMETERS}
        record = drawn_laws(best.steps, best.values, {"the law as set": best.law.value(best.steps, parameters)})
        note = f"{state['variant']}, layer {state['layer']}, seed {state['seed']}"
        record = record.assign_attrs(note=note)
        said = judged(best.steps, best.values, parameters, best)
        frame = _numbers(parameters, best, said)
        return {
            "numbers": Drawing(_card(note, frame, said, best), frame),
            "law_fit": Drawing(views.law_fit(record), views.law_fit_frame(record)),
        }

    def _fitted(self, state: Mapping[str, Any]) -> Fit:
        key = (state["variant"], state["seed"], state["layer"])
        if key not in self._fits:
            self._fits[key] = fit_law(*chosen(self._record, *key))
        return self._fits[key]


def _numbers(parameters: Mapping[str, float], best: Fit, said: Mapping[str, float]) -> pd.DataFrame:
    rows = [
        (f"{_SYMBOLS[name]} ({name})", value, best.parameters[name], best.errors[name])
        for name, value in parameters.items()
    ]
    rows.append(("R²", said["R²"], said["R² of the fit"], float("nan")))
    return pd.DataFrame(rows, columns=["quantity", "as set", "fit", "standard error"])


def _card(note: str, frame: pd.DataFrame, said: Mapping[str, float], best: Fit) -> Html:
    rows = [[row[1], *(_said(value) for value in row[2:])] for row in frame.itertuples()]
    turns = said["turns at step"]
    if turns < 0:
        words = "As set, the law has turned before training begins"
    elif turns > float(best.steps[-1]):
        words = f"As set, the law would turn after the training, at step {number(turns)}"
    else:
        words = f"As set, the law turns at step {number(turns)}"
    notes = [words, f"RMSE {number(said['RMSE'])}"]
    if best.at_bound:
        notes.append(f"The fit ended at a bound of {', '.join(best.at_bound)}: the series does not decide it")
    title = f"{note}: R² {number(said['R²'])} as set, {number(said['R² of the fit'])} at best"
    return card(title, notes, table(["", "as set", "fit", "standard error"], rows), "gs-law-card")


def _said(value: float) -> str:
    return "" if value != value else "open" if value == float("inf") else number(value)


class NumberPanel(Panel):
    """Controls ``change``, ``layer`` and ``text``: SmolLM2 runs with one number of its first token changed."""

    slug = "number"
    pictures = ("numbers", "massive_profile")

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            {
                "change": ipywidgets.Dropdown(options=list(CHANGES), description="Do", style=_STYLE, layout=_WIDE),
                "layer": ipywidgets.IntSlider(
                    11, 0, 29, description="After layer", style=_STYLE, layout=_WIDE, continuous_update=False
                ),
                "text": ipywidgets.Dropdown(options=list(TEXT_NAMES), description="Text", style=_STYLE, layout=_WIDE),
            }
        )
        self.apply(**settings)
        self._defaults = self.state

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """The loss with and without, and the largest and median magnitude of every layer."""
        record = changed_number(state["text"], state["change"], state["layer"])
        plain, now = record.attrs["nll_plain"], record.attrs["nll"]
        ratios = (float(found.massive_ratio.max()) for found in (live.plain(state["text"]), record))
        rows = [("loss, nats a token", plain, now), ("largest ratio of all layers", *ratios)]
        frame = pd.DataFrame(rows, columns=["quantity", "as it is", "now"])
        title = f"Loss {number(now)} nats a token; as it is {number(plain)}"
        holding = int((record.massive_count > 0).sum())
        notes = [f"dimension {record.attrs['dim']} of the first token", f"{holding} of 30 layers hold massive values"]
        body = table(["", "as it is", "now"], [[row[1], _said(row[2]), _said(row[3])] for row in frame.itertuples()])
        return {
            "numbers": Drawing(card(title, notes, body, "gs-number-card"), frame),
            "massive_profile": Drawing(views.massive_profile(record), views.massive_profile_frame(record)),
        }


def law_panel(record: xr.Dataset, **settings: Any) -> LawPanel:
    """Five sliders over the series of ``record``, opened at ``settings``."""
    return LawPanel(record, **settings)


def number_panel(**settings: Any) -> NumberPanel:
    """SmolLM2 with one number changed, opened at ``settings``."""
    return NumberPanel(**settings)


__all__ = ["LawPanel", "NumberPanel", "law_panel", "number_panel"]
