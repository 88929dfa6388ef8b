"""A plotly figure as a widget: one copy of plotly.js a kernel, and nothing but the figure when it changes.

plotly's own FigureWidget sends its 5 MB of JavaScript with every single figure, and gives up when the browser needs
more than two seconds to read it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import ipywidgets
import traitlets

from gatescope.views import alt_text

_HERE = Path(__file__).parent


class Library(anywidget.AnyWidget):
    """plotly.js as text, shared by all plots of this kernel. Shows nothing."""

    _esm: ClassVar[str] = "export default { render() {} };"
    source = traitlets.Unicode().tag(sync=True)


@cache
def library() -> Library:
    """The one Library of this kernel."""
    from plotly.offline import get_plotlyjs

    return Library(source=get_plotlyjs())


class Plot(anywidget.AnyWidget):
    """A plotly figure that follows the width of its cell and keeps zoom and camera when its numbers change."""

    _esm = _HERE / "plot.js"
    figure = traitlets.Unicode("{}").tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)
    library = traitlets.Instance(Library).tag(sync=True, **ipywidgets.widget_serialization)

    def __init__(self, figure: Any) -> None:
        super().__init__(library=library(), figure=figure.to_json(), alt=alt_text(figure))

    def show(self, figure: Any) -> None:
        """Draw ``figure`` in place of the one shown."""
        with self.hold_sync():
            self.alt = alt_text(figure)
            self.figure = figure.to_json()
