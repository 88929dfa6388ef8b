"""The panel of lesson 06: trained weights read at any mix, window and gate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import ipywidgets
import pandas as pd
import xarray as xr
from gatescope import views
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.views.style import Html, card, number, table

from gatescope_lessons.l06_liger.live import Reading, read
from gatescope_lessons.l06_liger.runs import VARIANTS, WINDOWS

#: None sees all that came before.
SEEN: dict[str, int | None] = {**{str(n): n for n in (1, 2, 4, 8, 12, 16, 24, 32, 48)}, "all": None}
DECAYS = {"from keys, a channel": "channel", "from keys, a head": "head", "fixed": "fixed", "none": "none"}
TASKS = {"recall: 8 pairs": "recall", "bytes: four short texts": "bytes"}
REPAIRS = {"none: as converted": "none", **{f"trained as {name}": name for name in VARIANTS}}
_UNITS = {"recall": "of the questions answered", "bytes": "nats a byte"}


class LigerPanel(Panel):
    """Controls ``mix``, ``window``, ``decay``, ``repair`` (whose adapters) and ``share`` (of them) say how the trained
    weights of ``task`` are read; ``layer`` and ``head`` which part is drawn. Every move runs the model."""

    slug = "liger"
    pictures = ("numbers", "token_strip", "influence_map")

    def __init__(self, **settings: Any) -> None:
        self._fixed: dict[str, list[tuple[str, float]]] = {}
        style, wide = {"description_width": "150px"}, {"width": "60%"}

        def menu(options: Any, label: str, **more: Any) -> ipywidgets.Dropdown:
            return ipywidgets.Dropdown(options=list(options), description=label, style=style, layout=wide, **more)

        def slider(label: str, value: float) -> ipywidgets.FloatSlider:
            return ipywidgets.FloatSlider(
                value, min=0.0, max=1.0, step=0.05, description=label, style=style, layout=wide, readout_format=".2f"
            )

        super().__init__(
            {
                "mix": slider("Mix: the recurrence", 0.5),
                "window": ipywidgets.SelectionSlider(
                    options=list(SEEN), value="4", description="Window", style=style, layout=wide
                ),
                "decay": menu(DECAYS, "Gate"),
                "task": menu(TASKS, "Task"),
                "repair": menu(REPAIRS, "Adapters", value="trained as liger"),
                "share": slider("Share of the adapters", 1.0),
                "layer": ipywidgets.IntSlider(1, min=0, max=1, description="Layer drawn", style=style, layout=wide),
                "head": ipywidgets.IntSlider(0, min=0, max=3, description="Head drawn", style=style, layout=wide),
            }
        )
        self.apply(**settings)
        self._defaults = self.state

    def draw(self, state: Mapping[str, Any]) -> Iterator[dict[str, Drawing]]:
        """The score now beside those of reference, then what the gate keeps, and who is read."""
        reading = Reading(
            task=TASKS[state["task"]],
            repair=REPAIRS[state["repair"]],
            share=state["share"],
            mix=state["mix"],
            window=SEEN[state["window"]],
            decay=DECAYS[state["decay"]],  # type: ignore[arg-type]
        )
        record = read(reading, layer=state["layer"], head=state["head"])
        rows = [("now", record.attrs["score"]), *self._reference(reading.task)]
        frame = pd.DataFrame(rows, columns=["model", "score"])
        yield {"numbers": Drawing(_card(reading, record, frame), frame)}
        yield {
            "token_strip": _kept(record),
            "influence_map": Drawing(views.influence_map(record), views.influence_map_frame(record)),
        }

    def _reference(self, task: str) -> list[tuple[str, float]]:
        """Scores of the trained model, of Liger as repaired and of its window alone, computed once a task."""
        if task not in self._fixed:
            own = WINDOWS[task]
            readings = {
                "the trained softmax model": Reading(task=task, repair="none", mix=0.0, window=None),
                "Liger, repaired": Reading(task=task, window=own),
                "the window alone, repaired": Reading(task=task, repair="window", mix=0.0, window=own),
            }
            self._fixed[task] = [(name, read(one).attrs["score"]) for name, one in readings.items()]
        return self._fixed[task]


def liger_panel(**settings: Any) -> LigerPanel:
    """A panel that reads trained weights in another way, opened at ``settings`` of its controls."""
    return LigerPanel(**settings)


def _kept(record: xr.Dataset) -> Drawing:
    if "kept" in record:
        return Drawing(views.token_strip(record, "kept"), views.token_strip_frame(record, "kept"))
    said = "No recurrent half, no state, no gate: the window alone"
    return Drawing(card(said, [record.attrs["note"]], "", "gs-token-strip"), pd.DataFrame({"kept": []}))


def _card(reading: Reading, record: xr.Dataset, frame: pd.DataFrame) -> Html:
    title = f"{number(record.attrs['score'])} {_UNITS[reading.task]}"
    life = record.attrs["half_life"]
    notes = [
        f"{100 * reading.mix:.0f} % recurrence, window {reading.window or 'all'}; {record.attrs['note']}",
        "half-life of this head's state: "
        + ("no state" if math.isnan(life) else "nothing is lost" if math.isinf(life) else f"{number(life)} tokens"),
    ]
    rows = [[row.model, number(row.score)] for row in frame.itertuples()]
    return card(title, notes, table(["", "score"], rows), "gs-liger-card")


__all__ = ["DECAYS", "REPAIRS", "SEEN", "TASKS", "LigerPanel", "liger_panel"]
