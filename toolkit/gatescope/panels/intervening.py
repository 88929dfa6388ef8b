"""Change the forward pass of a pretrained model and hear what the loss says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ipywidgets
import numpy as np
import xarray as xr

from gatescope import views
from gatescope.errors import Refusal
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.reading import MAX_TOKENS, prepare

#: (text, intervention or None) -> token texts [T] and the loss of tokens 1..T-1, in nats.
Measure = Callable[[str, Any], tuple[Sequence[str], Sequence[float]]]

_NONE, _ZERO, _CLAMP, _MASK, _WINDOW = "none", "zero dims", "clamp dims", "mask the first key", "sliding window"
#: Kind -> the controls that shape it.
KINDS: dict[str, tuple[str, ...]] = {
    _NONE: (),
    _ZERO: ("dims", "after_layer", "at"),
    _CLAMP: ("dims", "after_layer", "at", "limit"),
    _MASK: (),
    _WINDOW: ("window", "sink_tokens"),
}
_SHAPING = tuple(dict.fromkeys(name for names in KINDS.values() for name in names))


class IntervenePanel(Panel):
    """Controls ``text``, ``kind``, what shapes the kind (``dims``, ``after_layer``, ``at``, ``limit``, ``window``,
    ``sink_tokens``) and ``controls``: how many matched random controls to run."""

    slug = "intervene"
    pictures = ("loss_bars", "token_strip")

    def __init__(self, measure: Measure, text: str, n_layers: int, settings: Mapping[str, Any]) -> None:
        self._measure = measure
        self._unchanged: tuple[str, Sequence[str], np.ndarray] | None = None
        wide, style = {"width": "auto"}, {"description_width": "110px"}
        last = {"continuous_update": False, "style": style}
        controls = {
            "text": ipywidgets.Text(text, description="Text", layout=wide, **last),
            "kind": ipywidgets.Dropdown(options=list(KINDS), description="Intervention", style=style),
            "dims": ipywidgets.Text("", description="Dimensions", placeholder="for example 507, 247", **last),
            "after_layer": ipywidgets.IntSlider(n_layers // 3, 0, n_layers - 1, description="After layer", **last),
            "at": ipywidgets.ToggleButtons(options=["all tokens", "first token"], description="At", style=style),
            "limit": ipywidgets.FloatText(100.0, description="Limit of |h|", **last),
            "window": ipywidgets.IntSlider(64, 2, 256, description="Window", **last),
            "sink_tokens": ipywidgets.ToggleButtons(options=[0, 1, 4], description="Sink tokens", style=style),
            "controls": ipywidgets.IntSlider(2, 1, 5, description="Controls", **last),
        }
        run = ipywidgets.Button(description="Run", button_style="primary").add_class("gs-intervene-run")
        run.on_click(lambda _: self.refresh())
        super().__init__(controls, extra=[run])
        self.run_button = run
        self.apply(**settings)
        self._defaults = self.state

    def draw(self, state: Mapping[str, Any]) -> Iterator[dict[str, Drawing]]:
        """Loss bars and the token strip, after every pass of the model: the intervention first, then its controls."""
        for name in _SHAPING:
            self._controls[name].layout.display = None if name in KINDS[state["kind"]] else "none"
        for record in self.passes(state):
            shown = "nll_change" if "nll_change" in record else "nll_token"
            yield {
                "loss_bars": Drawing(views.loss_bars(record), views.loss_bars_frame(record)),
                "token_strip": Drawing(views.token_strip(record, shown), views.token_strip_frame(record, shown)),
            }

    def measure(self, state: Mapping[str, Any]) -> xr.Dataset:
        """nll(setting) for the model as it is, with the intervention and with its controls; nll_token(token) without,
        and nll_change(token) = with - without."""
        return deque(self.passes(state), maxlen=1).pop()

    def passes(self, state: Mapping[str, Any]) -> Iterator[xr.Dataset]:
        """What `measure` returns, as far as it is known after each pass of the model."""
        change = intervention(state)
        pieces, without = self._without(state["text"])
        runs = {"without": ("without", without)}
        if change is None:
            yield _record(pieces, runs, "no intervention")
            return
        controls, note = _controls(change, state["controls"])
        for kind, name, one in (("with", state["kind"], change), *(("control", *pair) for pair in controls.items())):
            runs[name] = (kind, self._loss(state["text"], one))
            yield _record(pieces, runs, note)

    def _without(self, text: str) -> tuple[Sequence[str], np.ndarray]:
        if self._unchanged is None or self._unchanged[0] != text:
            pieces, loss = self._measure(text, None)
            self._unchanged = (text, pieces, np.asarray(loss, dtype="float64"))
        return self._unchanged[1:]

    def _loss(self, text: str, change: Any) -> np.ndarray:
        return np.asarray(self._measure(text, change)[1], dtype="float64")


def intervene(
    pretrained: Any, text: str, *, measure: Measure | None = None, max_tokens: int = MAX_TOKENS, **settings: Any
) -> IntervenePanel:
    """A panel that runs a text through the model as it is, with an intervention, and with its random controls.

    settings   first values of controls, as in kind="zero dims", dims="507", after_layer=11
    measure    replaces the measurement, see `Measure`

    Raises Refusal for an unknown setting. A text that cannot be read is refused in the panel's error area.
    """

    def default(typed: str, change: Any) -> tuple[Sequence[str], Sequence[float]]:
        return measure_loss(pretrained, typed, change, max_tokens)

    return IntervenePanel(measure or default, text, pretrained.config.n_layers, settings)


def measure_loss(
    pretrained: Any, text: str, change: Any = None, max_tokens: int = MAX_TOKENS
) -> tuple[Sequence[str], Sequence[float]]:
    """Token texts [T] and the loss of tokens 1..T-1 in nats, under an intervention or None.

    Raises Refusal for a text that is empty, too short or too long, and what the intervention refuses.
    """
    from contextlib import nullcontext

    import torch

    from gatescope.models import next_token_nll

    tokens = prepare(pretrained, text, max_tokens)
    with torch.no_grad(), nullcontext() if change is None else change.on(pretrained.model):
        loss = next_token_nll(pretrained.model, tokens)
    return pretrained.tokenizer.pieces(tokens), loss[0].tolist()


def intervention(state: Mapping[str, Any]) -> Any:
    """The intervention that a state describes; None for kind "none". Raises Refusal for dims that are no numbers."""
    from gatescope.interventions import ClampDims, MaskKeys, WindowWithSinks, ZeroDims

    kind = state["kind"]
    if kind == _MASK:
        return MaskKeys(0)
    if kind == _WINDOW:
        return WindowWithSinks(state["window"], state["sink_tokens"])
    if kind == _NONE:
        return None
    dims, layer = parse_dims(state["dims"]), state["after_layer"]
    positions = (0,) if state["at"] == "first token" else None
    if kind == _ZERO:
        return ZeroDims(dims, layer, positions=positions)
    return ClampDims(dims, layer, state["limit"], positions=positions)


def parse_dims(text: str) -> tuple[int, ...]:
    """Dimensions typed as "507, 247". Raises Refusal for anything else."""
    parts = text.replace(",", " ").split()
    if not parts or not all(part.isdecimal() for part in parts):
        raise Refusal(
            "intervene", "dimensions as whole numbers, as in 507, 247", repr(text), "take them from the massive table"
        )
    return tuple(int(part) for part in parts)


def _controls(change: Any, count: int) -> tuple[dict[str, Any], str]:
    """Controls by name, and what they are in words."""
    if change.name == "window_with_sinks":
        if not change.sink_tokens:
            return {}, "no control: without sink tokens there is nothing to spend elsewhere"
        return {"control: wider window": change.control(0)}, f"control: {change.control_rule}"
    controls = {f"random control {seed}": change.control(seed) for seed in range(count)}
    return controls, f"controls: {change.control_rule}"


def _record(pieces: Sequence[str], runs: Mapping[str, tuple[str, np.ndarray]], note: str) -> xr.Dataset:
    """Losses of runs, name -> (kind, loss of tokens 1..T-1), the unchanged one first."""
    without = runs["without"][1]
    changed = [loss for kind, loss in runs.values() if kind == "with"]
    record = xr.Dataset(
        {
            "nll": ("setting", [float(loss.mean()) for _, loss in runs.values()], _about("mean loss")),
            "nll_token": ("token", without, _about("loss of the token")),
        },
        coords={
            "setting": list(runs),
            "kind": ("setting", [kind for kind, _ in runs.values()]),
            "token": range(1, len(pieces)),
            "piece": ("token", list(pieces[1:])),
        },
        attrs={"T": len(pieces), "bos": f"none added, the text starts with {pieces[0]!r}", "note": note},
    )
    if not changed:
        return record
    return record.assign(nll_change=("token", changed[0] - without, _about("loss with - without")))


def _about(long_name: str) -> dict[str, str]:
    return {"long_name": long_name, "units": "nats"}
