"""A place on the page where a view is shown, and shown again after a control moved."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd

from gatescope.views import alt_text


@dataclass(frozen=True)
class Drawing:
    """What a view returns, and its twin: exactly the numbers it drew."""

    figure: Any
    frame: pd.DataFrame


class Picture:
    """Shows a figure of any kind of view. A plotly figure is updated in place, so that its page keeps its size, zoom
    and camera; a still or a table is replaced. Screen readers get the alt text."""

    def __init__(self, css_class: str) -> None:
        self._alt = ipywidgets.HTML().add_class("gs-alt")
        self._still = ipywidgets.HTML(layout={"width": "100%"})
        self._plot: Any = None
        self._drawn: Any = None
        self.widget = ipywidgets.VBox([self._alt], layout={"width": "100%"}).add_class(css_class)

    def show(self, figure: Any) -> None:
        """Put ``figure`` in this place."""
        if hasattr(figure, "to_plotly_json"):
            self._show_plot(figure)
        else:
            self._still.value = figure._repr_html_()
            self._place(self._still)
        self._alt.value = f'<span style="position:absolute;left:-9999px">{escape(alt_text(figure))}</span>'

    def clear(self) -> None:
        """Show nothing."""
        self._alt.value = ""
        self._plot = None
        self.widget.children = (self._alt,)

    def _place(self, child: ipywidgets.Widget) -> None:
        if self.widget.children != (self._alt, child):
            self.widget.children = (self._alt, child)

    def _show_plot(self, figure: Any) -> None:
        if self._plot is None:
            from plotly.graph_objects import FigureWidget

            self._plot = FigureWidget(figure)
            # Drawn before it has a place on the page, a plot takes 700 px; it has to follow its box.
            self._plot._config = {**self._plot._config, "responsive": True}
        else:
            _update(self._plot, self._drawn, figure)
        self._drawn = figure
        self._place(self._plot)


def _update(live: Any, before: Any, figure: Any) -> None:
    """Send only what differs: plotly's own comparison walks the whole template, which takes longer than all else."""
    layout = _changes(before.layout, figure.layout)
    layout.get("scene", {}).pop("camera", None)
    kinds = [trace.type for trace in live.data] == [trace.type for trace in figure.data]
    with live.batch_update():
        if kinds:
            for trace, old, new in zip(live.data, before.data, figure.data, strict=True):
                trace.update(_changes(old, new))
        live.update_layout(layout)
    if not kinds:
        live.data = ()
        live.add_traces(figure.data)


def _changes(before: Any, fresh: Any) -> dict[str, Any]:
    old, new = before.to_plotly_json(), fresh.to_plotly_json()
    return {name: value for name, value in new.items() if name not in old or not _same(old[name], value)}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(np.asarray(a), np.asarray(b))
    return bool(a == b)
