"""A budget for reading digits, and a budget for the MLPs of a language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets
import pandas as pd
import xarray as xr
from gatescope import views
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.views.style import Html, card, number, table

from gatescope_lessons.l12_spending_compute.learners import ALLOCATIONS, SPEC
from gatescope_lessons.l12_spending_compute.leaving import METHODS
from gatescope_lessons.l12_spending_compute.live import Adaptive, Reader, left_now, spent_now

#: Shares of the whole network that reading may cost.
SHARES = (0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
PRICES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
_STYLE = {"description_width": "130px"}
_WIDE = {"width": "60%"}


class LeavePanel(Panel):
    """Controls ``budget``, ``who`` and ``trade``: every move of the budget decides anew for all digits; another price
    trains the gates first."""

    slug = "leave"
    pictures = ("numbers", "retrieval_gallery")

    def __init__(self, reader: Reader, **settings: Any) -> None:
        self._reader = reader
        super().__init__(
            {
                "budget": ipywidgets.SelectionSlider(
                    options=[(f"{share:.0%}", share) for share in SHARES],
                    value=0.3,
                    description="Budget",
                    style=_STYLE,
                    layout=_WIDE,
                ),
                "who": ipywidgets.Dropdown(
                    options=list(METHODS), value=METHODS[2], description="Decided by", style=_STYLE
                ),
                "trade": ipywidgets.SelectionSlider(
                    options=PRICES, value=0.3, description="Price λ (trains)", style=_STYLE, layout=_WIDE
                ),
            }
        )
        self.apply(**settings)
        self._defaults = self.state

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """A row an exit, and some of the digits that left there."""
        record, frame = left_now(self._reader, state["who"], state["budget"], state["trade"])
        return {
            "numbers": Drawing(_leave_card(state, record, frame), frame),
            "retrieval_gallery": Drawing(views.retrieval_gallery(record), views.retrieval_gallery_frame(record)),
        }


def _leave_card(state: Mapping[str, Any], record: xr.Dataset, frame: pd.DataFrame) -> Html:
    own = record.attrs
    title = (
        f"{state['who']} at {own['cost']:.1%} of the operations: accuracy {number(own['accuracy'])}, "
        f"calibration error {number(own['ece'])}"
    )
    notes = [f"leave at the first exit whose score is above {number(own['threshold'])}; {own['note']}"]
    if state["budget"] < own["cheapest"]:
        notes.append(f"No exit is that cheap: everybody leaves at the first, for {own['cheapest']:.1%}.")
    if state["who"] == METHODS[0]:
        notes.append(
            "These gates were trained to decide at 1/2; another threshold asks of them what they did not learn."
        )
    rows = [
        [str(int(row.exit)), f"{row.cost:.1%}", f"{row[3]:.1%}", number(row.accuracy), number(row.confidence)]
        for row in frame.itertuples()
    ]
    return card(title, notes, table(["exit", "cost", "leave here", "accuracy", "confidence"], rows), "gs-leave-card")


class SpendPanel(Panel):
    """Controls ``budget``, ``drawn``, ``layer`` and ``sequence``: every move tilts the gates until the budget is kept,
    and runs the model under all allocations."""

    slug = "spend"
    pictures = ("numbers", "token_strip")

    def __init__(self, adaptive: Adaptive, **settings: Any) -> None:
        self._adaptive, n = adaptive, SPEC.learners
        layers = adaptive.model.config.n_layers
        super().__init__(
            {
                "budget": ipywidgets.SelectionSlider(
                    options=[(f"{k} of {n} learners", k / n) for k in range(n + 1)],
                    value=0.125,
                    description="Budget",
                    style=_STYLE,
                    layout=_WIDE,
                ),
                "drawn": ipywidgets.Dropdown(options=list(ALLOCATIONS), description="Drawn", style=_STYLE),
                "layer": ipywidgets.Dropdown(options=list(range(layers)), description="Layer", style=_STYLE),
                "sequence": ipywidgets.IntSlider(
                    0, min=0, max=len(adaptive.tokens) - 1, description="Sequence", style=_STYLE, layout=_WIDE
                ),
            }
        )
        self.apply(**settings)
        self._defaults = self.state

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """A row an allocation, and the learners of every token."""
        record, frame = spent_now(self._adaptive, **state)
        return {
            "numbers": Drawing(_spend_card(frame), frame),
            "token_strip": Drawing(views.token_strip(record, "learners"), views.token_strip_frame(record, "learners")),
        }


def _spend_card(frame: pd.DataFrame) -> Html:
    values = frame.set_index("allocation")["loss, nats"]
    title = (
        f"Loss {number(values[ALLOCATIONS[0]])} with gates, {number(values[ALLOCATIONS[1]])} with the same for all, "
        f"{number(values['the dense model'])} dense"
    )
    notes = [
        "operations: of the MLPs, gates included, as a share of the dense MLPs",
        "uniform guessing: 5.55 nats a byte",
    ]
    rows = [[row[1], number(row[2]), f"{row[3]:.1%}", f"{row[4]:.1%}"] for row in frame.itertuples()]
    return card(title, notes, table(["", "loss, nats", "learners", "operations"], rows), "gs-spend-card")


def leave_panel(reader: Reader, **settings: Any) -> LeavePanel:
    """A panel that decides live who leaves where, opened at ``settings`` of its controls."""
    return LeavePanel(reader, **settings)


def spend_panel(adaptive: Adaptive, **settings: Any) -> SpendPanel:
    """A panel that runs an adaptive model live at a budget, opened at ``settings`` of its controls."""
    return SpendPanel(adaptive, **settings)


__all__ = ["PRICES", "SHARES", "LeavePanel", "SpendPanel", "leave_panel", "spend_panel"]
