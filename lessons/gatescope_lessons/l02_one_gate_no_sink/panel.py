"""The learner's own sequence through any of the trained variants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets
import pandas as pd
from gatescope import views
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing

from gatescope_lessons.l02_one_gate_no_sink import lab


class OwnSequencePanel(Panel):
    """Controls ``letters``, ``model`` and, where there is a gate, ``amount``, which blends it from off to learned: the
    loss of every token of a typed sequence, and where its tokens look."""

    slug = "own"
    pictures = ("token_strip", "key_mass_bars", "sink_heatmap")

    def __init__(self, letters: str, seed: int = 0) -> None:
        self._seed = seed
        self._models: dict[str, Any] = {}
        style = {"description_width": "90px"}
        super().__init__(
            {
                "letters": ipywidgets.Text(
                    letters, description="Sequence", continuous_update=False, layout={"width": "auto"}, style=style
                ),
                "model": ipywidgets.Dropdown(options=list(lab.VARIANTS), description="Model", style=style),
                "amount": ipywidgets.FloatSlider(1.0, min=0.0, max=1.0, step=0.05, description="Gate", style=style),
            }
        )
        self.refresh()

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """Three pictures from one forward pass."""
        name = state["model"]
        if name not in self._models:
            self._models[name] = lab.load(name, self._seed)
        gated = lab.VARIANTS[name].attention.gate is not None
        self._controls["amount"].layout.display = None if gated else "none"
        record = lab.read_sequence(self._models[name], state["letters"], state["amount"] if gated else 1.0)
        return {
            view: Drawing(getattr(views, view)(*given), getattr(views, f"{view}_frame")(*given))
            for view, given in {
                "token_strip": (record, "token_nll"),
                "key_mass_bars": (record,),
                "sink_heatmap": (record,),
            }.items()
        }

    def table(self) -> pd.DataFrame:
        """Loss by token, as drawn."""
        return self.frame("token_strip")


def own_sequence(letters: str, seed: int = 0) -> OwnSequencePanel:
    """A panel that reads whatever sequence of letters is typed into it with one of the trained models."""
    return OwnSequencePanel(letters, seed)


__all__ = ["OwnSequencePanel", "own_sequence"]
