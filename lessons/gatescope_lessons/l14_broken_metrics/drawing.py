"""The figure of a patient: what it finds along its control, alone or beside the sound number."""

from __future__ import annotations

import pandas as pd
from gatescope.views.still import Still, still
from gatescope.views.style import COMPARED, FAINT, STRONG, number

from gatescope_lessons.l14_broken_metrics.lab import Patient

#: What is shown of a patient.
SHOWS = ("symptom", "diagnosis")
CAME_IN, REPAIRED = "as it came in", "sound"


def figure(patient: Patient, frame: pd.DataFrame, dose: float | int) -> Still:
    """The broken number along the doses of a ``frame`` of `lab.curve`, and the sound one where it has its column; the
    dose is marked."""
    both = "sound" in frame
    now = frame[frame["dose"] == dose].iloc[0]
    title = patient.symptom
    if both:
        title = f"{patient.name}: {number(now['broken'])} {CAME_IN}, {number(now['sound'])} {REPAIRED}"
    with still(title, [patient.data, f"marked: {patient.control} = {dose:g}"], height=3.8) as (drawn, axes):
        axes.axvline(dose, color=FAINT, ls="--", lw=1)
        axes.plot(frame["dose"], frame["broken"], "o-", color=STRONG, lw=2, ms=5, label=CAME_IN)
        if both:
            axes.plot(frame["dose"], frame["sound"], "s-", color=COMPARED, lw=2, ms=5, label=REPAIRED)
        if patient.log:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(xlabel=patient.control, ylabel=patient.unit)
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0.0), max(high, 0.0))
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return drawn


__all__ = ["CAME_IN", "REPAIRED", "SHOWS", "figure"]
