"""Type a sentence, see where attention sinks and which activations are massive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
import xarray as xr

from gatescope import views
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing

#: A text longer than this makes a laptop wait for minutes.
MAX_TOKENS = 512
_LABEL = {"description_width": "90px"}


class ExplorePanel(Panel):
    """Controls ``text``, ``layer`` and ``scale``. A new text runs the model; a layer or scale is drawn from the record.

    measure   text -> record with the variables of Sinks, Entropy, Massive(keep=True) and ValueDrain
    """

    slug = "explore"
    pictures = ("sink_heatmap", "entropy_heatmap", "massive_3d", "massive_table", "value_drain_bars")

    def __init__(self, measure: Callable[[str], xr.Dataset], text: str, n_layers: int) -> None:
        self._measure, self._record = measure, xr.Dataset()
        self._measured: str | None = None
        wide = {"width": "100%"}
        controls = {
            "text": ipywidgets.Text(text, description="Text", continuous_update=False, layout=wide, style=_LABEL),
            "layer": ipywidgets.IntSlider(
                n_layers // 2, 0, n_layers - 1, description="Layer (3D)", continuous_update=False, style=_LABEL
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
        """All five pictures from a run of the model when the text is new, else the one that depends on the layer."""
        typed, layer, scale = state["text"], state["layer"], state["scale"]
        new = typed != self._measured
        record = self._measure(typed) if new else self._record
        drawings = {
            "massive_3d": Drawing(views.massive_3d(record, layer, scale), views.massive_3d_frame(record, layer))
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
        return measure_text(pretrained, typed, max_tokens)

    return ExplorePanel(measure or default, text, pretrained.config.n_layers)


def measure_text(pretrained: Any, text: str, max_tokens: int = MAX_TOKENS) -> xr.Dataset:
    """Sinks, entropy, massive activations and value drain of one text, with the token texts as coordinate ``piece``.

    Raises Refusal for an empty text, one of a single token, or one longer than ``max_tokens``.
    """
    import torch

    from gatescope.probes import Entropy, Massive, Sinks, ValueDrain
    from gatescope.scope import Scope

    tokens = prepare(pretrained, text, max_tokens)
    pieces = pretrained.tokenizer.pieces(tokens)
    probes = [Sinks(), Entropy(), Massive(keep=True), ValueDrain()]
    with torch.no_grad(), Scope(pretrained.model, probes=probes) as scope:
        pretrained.model(tokens)
    record = scope.record(T=tokens.shape[1], bos=f"none added, the text starts with {pieces[0]!r}")
    return record.assign_coords(piece=("token", pieces))


def prepare(pretrained: Any, text: str, max_tokens: int) -> Any:
    """Token ids [1 T] with T >= 2. Raises Refusal for a text that is empty, too short or too long."""
    from gatescope.errors import Refusal

    tokens = pretrained.tokenizer.prepare(text, max_tokens=max_tokens)
    if tokens.shape[1] < 2:
        raise Refusal("prepare", "a text of at least 2 tokens", "1 token", "type a longer sentence")
    return tokens
