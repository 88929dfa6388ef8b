"""The clinic: one card a patient, with its figure, its code, and the control that makes its fault larger or vanish."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import ipywidgets
import pandas as pd
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.views.style import NOTE_SIZE, RULE, Html, card, number, table

from gatescope_lessons.l14_broken_metrics import lab
from gatescope_lessons.l14_broken_metrics.drawing import CAME_IN, REPAIRED, SHOWS, figure
from gatescope_lessons.l14_broken_metrics.lab import PATIENTS, Patient

_STYLE = {"description_width": "110px"}
_WIDE = {"width": "60%"}


class ClinicPanel(Panel):
    """Controls ``patient``, ``dose`` (what it means changes with the patient) and ``show``: the symptom alone, or the
    diagnosis with it."""

    slug = "clinic"
    pictures = ("figure", "card")

    def __init__(self, **settings: Any) -> None:
        names = list(PATIENTS)
        patient = ipywidgets.Dropdown(options=names, description="Patient", style=_STYLE)
        dose = ipywidgets.SelectionSlider(
            options=_doses(names[0]), value=PATIENTS[names[0]].start, description="Dose", style=_STYLE, layout=_WIDE
        )
        show = ipywidgets.ToggleButtons(
            options=SHOWS,
            value=SHOWS[1],
            description="Show",
            style=_STYLE | {"button_width": "auto"},
            layout=_WIDE,
        )
        patient.observe(self._fit, "value")
        super().__init__({"patient": patient, "dose": dose, "show": show})
        self.apply(**settings)
        self._defaults = self.state

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """The figure along the control, and the card at the dose."""
        one, dose = PATIENTS[state["patient"]], state["dose"]
        frame = lab.curve(one.name)
        if state["show"] == SHOWS[0]:
            frame = frame.drop(columns="sound")
        numbers = _numbers(frame, dose)
        return {
            "figure": Drawing(figure(one, frame, dose), frame),
            "card": Drawing(_card(one, dose, numbers), numbers),
        }

    def _fit(self, change: Mapping[str, Any]) -> None:
        """Another patient has other doses: offer these before anything is drawn."""
        held, self._held = self._held, True
        try:
            self._controls["dose"].options = _doses(change["new"])
            self._controls["dose"].value = PATIENTS[change["new"]].start
        finally:
            self._held = held


def _doses(name: str) -> list[tuple[str, float | int]]:
    return [(f"{dose:g}", dose) for dose in PATIENTS[name].doses]


def _numbers(frame: pd.DataFrame, dose: float | int) -> pd.DataFrame:
    now = frame[frame["dose"] == dose].iloc[0]
    said = {"broken": CAME_IN, "sound": REPAIRED}
    rows = [(said[column], float(now[column])) for column in said if column in frame]
    return pd.DataFrame(rows, columns=["metric", "value"])


def _card(one: Patient, dose: float | int, numbers: pd.DataFrame) -> Html:
    told = ", ".join(f"{number(row.value)} {row.metric}" for row in numbers.itertuples())
    notes, codes = [f"Symptom: {one.symptom}", f"Measured on: {one.data}"], {CAME_IN: one.broken}
    if len(numbers) > 1:
        both = " and ".join(map(number, one.numbers(one.harmless())))
        notes += [
            f"Fault: {one.fault}",
            f"Met in: {one.met}",
            f"No harm on {one.where}: {both}",
            f"In the toolkit: {one.probe}",
        ]
        codes[REPAIRED] = one.sound
    rows = [[row.metric, f"{number(row.value)} {one.unit}"] for row in numbers.itertuples()]
    listings = "".join(_listing(name, lab.code(function)) for name, function in codes.items())
    title = f"{one.name}, {one.control} = {dose:g}: {told}"
    return card(title, notes, table(["metric", "value"], rows) + listings, "gs-clinic-numbers")


def _listing(name: str, code: str) -> str:
    style = f"margin:0;padding:6px 10px;border:1px solid {RULE};font-size:{NOTE_SIZE}px;white-space:pre-wrap"
    return f'<div style="margin:10px 0 2px">{escape(name)}</div><pre style="{style}">{escape(code)}</pre>'


def clinic_panel(**settings: Any) -> ClinicPanel:
    """The clinic, opened at ``settings`` of its controls."""
    return ClinicPanel(**settings)


__all__ = ["ClinicPanel", "clinic_panel"]
