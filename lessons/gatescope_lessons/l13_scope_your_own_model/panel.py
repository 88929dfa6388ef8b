"""A text of one's own through the mixture of experts, at any stage of its training, with an expert taken away."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import ipywidgets
import pandas as pd
import torch
import xarray as xr
from gatescope import views
from gatescope.errors import Refusal
from gatescope.interventions import DropExperts
from gatescope.models import TinyLM, next_token_nll
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.probes import Routing, saturation
from gatescope.recorder import measure
from gatescope.tasks.text import BYTE_BOS
from gatescope.views.style import Html, card, number, table
from jaxtyping import Int
from torch import Tensor

from gatescope_lessons.l13_scope_your_own_model import lab

MOST_BYTES = 400
CONTROLS = (0, 1, 2)
_NOBODY = "none"


def encode(text: str) -> Int[Tensor, "1 T"]:
    """BOS and the bytes of ``text``. Raises Refusal for fewer than two bytes or more than `MOST_BYTES`."""
    found = list(text.encode())
    if not 2 <= len(found) <= MOST_BYTES:
        got = f"{len(found)} bytes"
        raise Refusal("encode", f"a text of 2 to {MOST_BYTES} bytes", got, "type a sentence or two")
    return torch.tensor([[BYTE_BOS, *found]])


def pieces(tokens: Int[Tensor, "1 T"]) -> list[str]:
    """One string a byte; ^ is BOS."""
    return ["^" if token == BYTE_BOS else bytes([token]).decode("latin-1") for token in tokens[0].tolist()]


def read(model: TinyLM, tokens: Int[Tensor, "1 T"], change: Any = None) -> tuple[xr.Dataset, float]:
    """What the routers do with a text and its loss in nats a byte, under an intervention or None."""
    with nullcontext() if change is None else change.on(model):
        record = measure(model, [Routing(keep=True)], lambda model: model(tokens))
        with torch.no_grad():
            loss = float(next_token_nll(model, tokens).mean())
    return record.assign_coords(piece=("token", pieces(tokens))), loss


class RoutingPanel(Panel):
    """Controls ``text``, ``step`` (of training), ``drop`` (an expert) and ``layer`` (of the map). A move runs the model
    of that step on the text, with and without the expert."""

    slug = "routing"
    pictures = ("numbers", "expert_load_heatmap", "token_expert_map")

    def __init__(self, text: str) -> None:
        self._models: dict[int, TinyLM] = {}
        config = lab.BYTES.config
        experts = config.mlp.experts  # type: ignore[union-attr]
        style, wide = {"description_width": "110px"}, {"width": "60%"}
        super().__init__(
            {
                "text": ipywidgets.Text(
                    text, description="Text", continuous_update=False, layout={"width": "auto"}, style=style
                ),
                "step": ipywidgets.SelectionSlider(
                    options=(0, *lab.SHIPPED), value=lab.STEPS, description="Training step", style=style, layout=wide
                ),
                "drop": ipywidgets.SelectionSlider(
                    options=(_NOBODY, *range(experts)), description="Drop expert", style=style, layout=wide
                ),
                "layer": ipywidgets.IntSlider(
                    0, min=0, max=config.n_layers - 1, description="Layer (map)", style=style, layout=wide
                ),
            }
        )
        self.refresh()

    def draw(self, state: Mapping[str, Any]) -> dict[str, Drawing]:
        """The numbers beside those without the change, the load of every expert, and who serves which byte."""
        tokens, model = encode(state["text"]), self._model(state["step"])
        plain, loss = read(model, tokens)
        final = plain if state["step"] == lab.STEPS else read(self._model(lab.STEPS), tokens)[0]
        rows = {"as it is": (plain, loss)}
        if state["drop"] != _NOBODY:
            change = DropExperts([state["drop"]])
            rows[f"without expert {state['drop']}"] = read(model, tokens, change)
            rows |= {f"control {seed}: another expert": read(model, tokens, change.control(seed)) for seed in CONTROLS}
        shown = list(rows.values())[min(1, len(rows) - 1)][0]
        frame = pd.DataFrame([_row(name, *found) for name, found in rows.items()])
        settled = float(saturation(plain, final).routing_saturation.mean())
        layer = state["layer"]
        return {
            "numbers": Drawing(_card(state, frame, settled, plain), frame),
            "expert_load_heatmap": Drawing(views.expert_load_heatmap(shown), views.expert_load_heatmap_frame(shown)),
            "token_expert_map": Drawing(
                views.token_expert_map(shown, layer), views.token_expert_map_frame(shown, layer)
            ),
        }

    def _model(self, step: int) -> TinyLM:
        if step not in self._models:
            self._models[step] = lab.load(step)
        return self._models[step]


def routing_panel(text: str) -> RoutingPanel:
    """A panel on the routers of the lesson's mixture of experts, which opens on ``text``."""
    return RoutingPanel(text)


def _row(name: str, record: xr.Dataset, loss: float) -> dict[str, Any]:
    return {
        "model": name,
        "loss (nats)": loss,
        "router entropy / log E": float(record.router_entropy.mean()) / math.log(record.sizes["expert"]),
        "load entropy": float(record.load_entropy.mean()),
        "MaxVio": float(record.load_violation.mean()),
        "dead experts": int(record.experts_dead.sum()),
    }


def _card(state: Mapping[str, Any], frame: pd.DataFrame, settled: float, record: xr.Dataset) -> Html:
    known = record.token_expert.attrs["window_tokens"]
    notes = [
        f"{settled:.0%} of the experts that bytes visit are those of the finished model (chance: "
        f"{record.sizes['choice'] / record.sizes['expert']:.0%})",
        f"Means over layers; dead experts are summed over them. The window is {known} tokens: an expert may be dead "
        "here and alive on a longer text",
    ]
    title = f"After {state['step']} of {lab.STEPS} steps: loss {number(frame['loss (nats)'].iloc[0])} nats a byte"
    rows = [[str(row[0]), *(number(x) if isinstance(x, float) else str(x) for x in row[1:])] for row in frame.values]
    return card(title, notes, table(list(frame.columns), rows), "gs-routing-card")


__all__ = ["MOST_BYTES", "RoutingPanel", "encode", "pieces", "read", "routing_panel"]
