"""Blend a trained gate from off to what it learned and watch the sink answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ipywidgets
import pandas as pd
import xarray as xr

from gatescope import views
from gatescope.errors import Refusal
from gatescope.panels.base import Panel
from gatescope.panels.picture import Drawing
from gatescope.views.style import card, table

#: (model name, amount) -> record with first_attention, gate_histogram, gate_mean and nll.
Measure = Callable[[str, float], xr.Dataset]

_COLUMNS = {
    "amount": "amount",
    "first_attention": "first-token attention, mean",
    "first_attention_max": "largest head",
    "gate_mean": "gate score, mean",
    "nll": "loss (nats)",
}


class GateBlendPanel(Panel):
    """Controls ``model`` and ``amount``: 0 is a gate that changes nothing, 1 the gate as learned."""

    slug = "gate"
    pictures = ("numbers", "sink_heatmap", "gate_histogram")

    def __init__(self, measure: Measure, models: list[str]) -> None:
        self._measure = measure
        self._ends: dict[tuple[str, float], xr.Dataset] = {}
        style = {"description_width": "110px"}
        controls = {
            "model": ipywidgets.Dropdown(options=models, description="Model", style=style),
            "amount": ipywidgets.FloatSlider(
                1.0, min=0.0, max=1.0, step=0.05, description="Gate amount", style=style, layout={"width": "60%"}
            ),
        }
        super().__init__(controls)
        self.refresh()

    def draw(self, state: Mapping[str, Any]) -> Iterator[dict[str, Drawing]]:
        """The numbers beside both ends of the slider, then the sink map and the gate histogram."""
        name, amount = state["model"], round(state["amount"], 6)
        off, learned = self._end(name, 0.0), self._end(name, 1.0)
        record = {0.0: off, 1.0: learned}.get(amount)
        record = self._measure(name, amount) if record is None else record
        rows = {"gate off": (0.0, off), "now": (amount, record), "as learned": (1.0, learned)}
        frame = pd.DataFrame({label: _numbers(at, found) for label, (at, found) in rows.items()}).T
        yield {"numbers": Drawing(_card(name, frame), frame.reset_index(names="gate"))}
        yield {
            "sink_heatmap": Drawing(views.sink_heatmap(record), views.sink_heatmap_frame(record)),
            "gate_histogram": Drawing(views.gate_histogram(record), views.gate_histogram_frame(record)),
        }

    def _end(self, name: str, amount: float) -> xr.Dataset:
        if (name, amount) not in self._ends:
            self._ends[name, amount] = self._measure(name, amount)
        return self._ends[name, amount]


def gate_blend(models: Mapping[str, Any], tokens: Any, *, measure: Measure | None = None) -> GateBlendPanel:
    """A panel with a slider from no gate to the learned gate, on trained gated models.

    models    name -> model that shows its gate
    tokens    [B T] the sequences measured at every move
    measure   replaces the measurement, see `Measure`

    Raises Refusal without a model. A model without a gate is refused in the panel's error area.
    """
    if not models:
        raise Refusal("gate_blend", "at least one gated model", "none", "pass {'g1_element': model}")

    def default(name: str, amount: float) -> xr.Dataset:
        return measure_blend(models[name], tokens, amount)

    return GateBlendPanel(measure or default, list(models))


def measure_blend(model: Any, tokens: Any, amount: float) -> xr.Dataset:
    """Sinks, gate scores and mean loss of a model whose gates are blended by ``amount``."""
    import torch

    from gatescope.interventions import BlendGates
    from gatescope.models import next_token_nll
    from gatescope.probes import Gates, Sinks
    from gatescope.scope import Scope

    with torch.no_grad(), BlendGates(amount).on(model), Scope(model, probes=[Sinks(), Gates()]) as scope:
        nll = next_token_nll(model, tokens)
    record = scope.record(T=tokens.shape[1], bos=_first(tokens))
    return record.assign(nll=((), nll.mean().item(), {"long_name": "mean loss", "units": "nats"}))


def _first(tokens: Any) -> str:
    first = sorted(set(tokens[:, 0].tolist()))
    return (
        f"every sequence starts with token {first[0]}" if len(first) == 1 else "sequences start with different tokens"
    )


def _numbers(amount: float, record: xr.Dataset) -> dict[str, float]:
    return {
        "amount": amount,
        "first_attention": float(record.first_attention.mean()),
        "first_attention_max": float(record.first_attention.max()),
        "gate_mean": float(record.gate_mean.mean()),
        "nll": float(record.nll),
    }


def _card(name: str, frame: pd.DataFrame) -> Any:
    now = frame.loc["now"]
    title = (
        f"{name}, gate amount {now['amount']:.2f}: first-token attention {now['first_attention']:.3f} "
        f"(largest head {now['first_attention_max']:.3f}), loss {now['nll']:.3f} nats"
    )
    rows = [
        [str(label), *(f"{value:.3f}" for value in values)]
        for label, values in zip(frame.index, frame.values, strict=True)
    ]
    note = "Blended score = (1 - amount) × off + amount × learned"
    return card(title, [note], table(["", *_COLUMNS.values()], rows), "gs-gate-card")
