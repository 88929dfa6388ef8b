"""The panels of lesson 11: a search that can be watched and left, and the cell that a sparsity leads to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ipywidgets
import pandas as pd
from gatescope import views
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.panels.training import TrainPanel
from gatescope.views.style import Html, card, number, table

from gatescope_lessons.l11_dass.arms import Budget, search_for
from gatescope_lessons.l11_dass.lab import edge_labels
from gatescope_lessons.l11_dass.live import SPARSITIES, Outcome, cell_record, search_now, weight_curves

_STYLE = {"description_width": "130px"}
_WIDE = {"width": "60%"}


def _sparsity(value: float, description: str) -> ipywidgets.SelectionSlider:
    options = [(f"{share:.1%}", share) for share in SPARSITIES]
    return ipywidgets.SelectionSlider(options=options, value=value, description=description, style=_STYLE, layout=_WIDE)


def _seed() -> ipywidgets.IntSlider:
    return ipywidgets.IntSlider(0, min=0, max=9, description="Seed", style=_STYLE, layout=_WIDE)


class SearchPanel(TrainPanel):
    """A search with Start, Stop and Resume. Control ``sparsity`` acts on the search under way, at once; ``edge`` says
    which edge is drawn; ``seed`` acts on the next search, after Reset."""

    slug = "search"
    pictures = ("operation_weight", "cell_graph")

    def __init__(self, steps: int = 80, **settings: Any) -> None:
        budget = Budget(search=steps, dense=min(10, steps))
        super().__init__(lambda: search_for(self.state["sparsity"], self.state["seed"], budget), steps=steps)
        self.apply(**settings)
        self._defaults = self.state

    def _settings(self) -> dict[str, Any]:
        return {
            "sparsity": _sparsity(0.0, "Read as 0"),
            "edge": ipywidgets.Dropdown(options=edge_labels(), description="Edge drawn", style=_STYLE),
            "seed": _seed(),
        }

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """Give the search its sparsity, then draw the weights so far and the cell they would lead to."""
        search = self.training
        if search is None:
            return {}
        search.spec = replace(search.spec, sparsity=state["sparsity"])
        curves = weight_curves(search, state["edge"])
        cell = cell_record(search.history[-1], search.architecture, f"after {search.step} steps")
        given = (curves, "operation_weight")
        return {
            "operation_weight": Drawing(views.curves(*given), views.curves_frame(*given)),
            "cell_graph": Drawing(views.cell_graph(cell), views.cell_graph_frame(cell)),
        }

    def _note(self, progress: Any) -> None:
        self._history.append({"step": progress.step, "loss": progress.loss})


class SparsePanel(Panel):
    """Controls ``sparsity`` and ``seed``: every move searches anew, trains, prunes and tests what was found."""

    slug = "sparse"
    pictures = ("cell_graph", "numbers")

    def __init__(self, **settings: Any) -> None:
        super().__init__({"sparsity": _sparsity(0.9, "Weights cut"), "seed": _seed()})
        self.apply(**settings)
        self._defaults = self.state

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """The cell that was found, and its accuracy beside that of a dense search, pruned alike."""
        found = search_now(state["sparsity"], state["seed"])
        frame = pd.DataFrame(
            {
                "search": ["sparse", "dense"],
                "accuracy": [found.accuracy, found.dense_accuracy],
                "weights_left": [found.left, found.dense_left],
            }
        )
        return {
            "cell_graph": Drawing(views.cell_graph(found.record), views.cell_graph_frame(found.record)),
            "numbers": Drawing(_card(state["sparsity"], found, frame), frame),
        }


def _card(sparsity: float, found: Outcome, frame: pd.DataFrame) -> Html:
    title = (
        f"{sparsity:.1%} of the weights cut: accuracy {number(found.accuracy)} after a sparse search, "
        f"{number(found.dense_accuracy)} after a dense one"
    )
    notes = ["guessing: 0.1; both trained, pruned by layer and tuned alike; the stem stays dense"]
    if sparsity == 0:
        notes.append("At 0 % nothing is read as 0: the two searches are one")
    elif found.same:
        notes.append("Both searches found the same cell")
    if not found.left:
        notes.append("No weight is left: the output is its bias for every image")
    rows = [[row.search, number(row.accuracy), f"{row.weights_left:,}"] for row in frame.itertuples()]
    return card(title, notes, table(["search", "accuracy", "weights left"], rows), "gs-sparse-card")


def search_panel(steps: int = 80, **settings: Any) -> SearchPanel:
    """A panel that searches live, opened at ``settings`` of its controls."""
    return SearchPanel(steps, **settings)


def sparse_panel(**settings: Any) -> SparsePanel:
    """A panel that searches at a sparsity and shows the cell, opened at ``settings`` of its controls."""
    return SparsePanel(**settings)


__all__ = ["SearchPanel", "SparsePanel", "search_panel", "sparse_panel"]
