"""A place on the page where a view is shown, and shown again after a control moved."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import ipywidgets
import pandas as pd

from gatescope.panels.plot import Plot
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
        self._still = ipywidgets.HTML(layout={"width": "auto"})
        self._plot: Plot | None = None
        self.widget = ipywidgets.VBox([self._alt], layout={"width": "auto"}).add_class(css_class)

    def show(self, figure: Any) -> None:
        """Put ``figure`` in this place."""
        if hasattr(figure, "to_plotly_json"):
            if self._plot is None:
                self._plot = Plot(figure)
            else:
                self._plot.show(figure)
            self._place(self._plot)
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
