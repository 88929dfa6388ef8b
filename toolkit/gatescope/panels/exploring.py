"""Type a sentence, see where attention sinks and which activations are massive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
import xarray as xr

from gatescope import views
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.reading import MAX_TOKENS, read_text

_LABEL = {"description_width": "110px"}


class ExplorePanel(Panel):
    """Controls ``text``, ``layer`` and ``scale``. A new text runs the model; a layer or scale is drawn from the record.

    measure   text -> record with the variables of Sinks, Entropy, Massive(keep=True) and ValueDrain
    """

    slug = "explore"
    pictures = ("sink_heatmap", "entropy_heatmap", "massive_3d", "massive_table", "value_drain_bars")

    def __init__(self, measure: Callable[[str], xr.Dataset], text: str, n_layers: int) -> None:
        self._measure, self._record = measure, xr.Dataset()
        self._measured: str | None = None
        wide = {"width": "auto"}
        controls = {
            "text": ipywidgets.Text(text, description="Text", continuous_update=False, layout=wide, style=_LABEL),
            "layer": ipywidgets.IntSlider(
                n_layers // 2, 0, n_layers - 1, description="Layer (massive)", continuous_update=False, style=_LABEL
            ),
            "scale": ipywidgets.ToggleButtons(options=["log", "linear"], description="Height (3D)", style=_LABEL),
        }
        run = ipywidgets.Button(description="Run", button_style="primary").add_class("gs-explore-run")
        run.on_click(lambda _: self.refresh())
        super().__init__(controls, extra=[run])
        self.run_button = run
        self.refresh()

    @property
    def record(self) -> xr.Dataset:
        """What was measured on the text shown now."""
        return self._record

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """All five pictures from a run of the model when the text is new, else the two that depend on the layer."""
        typed, layer, scale = state["text"], state["layer"], state["scale"]
        new = typed != self._measured
        record = self._measure(typed) if new else self._record
        drawings = {
            "massive_3d": Drawing(views.massive_3d(record, layer, scale), views.massive_3d_frame(record, layer)),
            "massive_table": Drawing(
                views.massive_table(record, layer=layer), views.massive_table_frame(record, layer=layer)
            ),
        }
        if new:
            for name in self.pictures:
                if name not in drawings:
                    drawings[name] = Drawing(getattr(views, name)(record), getattr(views, f"{name}_frame")(record))
        self._record, self._measured = record, typed
        return drawings


def explore(
    pretrained: Any,
    text: str,
    *,
    measure: Callable[[str], xr.Dataset] | None = None,
    max_tokens: int = MAX_TOKENS,
) -> ExplorePanel:
    """A panel that measures whatever sentence is typed into it.

    pretrained   has ``model`` and ``tokenizer``; an empty text or one of more than ``max_tokens`` tokens is refused in
                 the panel's error area
    measure      replaces the measurement: text -> record
    """

    def default(typed: str) -> xr.Dataset:
        return read_text(pretrained, typed, max_tokens)

    return ExplorePanel(measure or default, text, pretrained.config.n_layers)
