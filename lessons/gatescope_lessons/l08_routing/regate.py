"""A trained model of lesson 08 behind another gate: its logits as they are, and from there on anything."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from gatescope.clustered import EXPERTS, held_out, look
from gatescope.errors import Refusal
from gatescope.layers.routers import dense_to_sparse
from gatescope.models.routed import RoutedRegressor
from gatescope.taps import Handler, RouterScores, attached


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A gate for a trained router.

    temperature  divides its logits, beside whatever it was trained with; 0 is the limit
    k            experts that every token gets in any case
    threshold    others with a larger probability join them; 1: nobody joins
    dropped      experts that are switched off, 0-based; nobody takes their place

    Raises Refusal for values that no gate can have.
    """

    temperature: float = 1.0
    k: int = 1
    threshold: float = 1.0
    dropped: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        got = f"temperature={self.temperature}, k={self.k}, threshold={self.threshold}, dropped={self.dropped}"
        fits = self.temperature >= 0 and 1 <= self.k <= EXPERTS and 0 <= self.threshold <= 1
        if not fits or not set(self.dropped) <= set(range(EXPERTS)):
            wanted = f"temperature >= 0, k and dropped among {EXPERTS} experts, threshold in [0, 1]"
            raise Refusal("Setting", wanted, got, "stay within the sliders")


class Regate(Handler):
    """Chooses experts and weights anew from the logits a router shows; a selection bias still ranks."""

    sites = frozenset({"router"})

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def edit(self, site: str, layer: int | None, value: RouterScores) -> RouterScores:
        """The router's scores behind the other gate."""
        own, logits = self.setting, value.logits.flatten(0, -2)
        z, index, weight = dense_to_sparse(logits, temperature=own.temperature, threshold=0.0, least=EXPERTS)
        if value.bias is not None:
            index = (z.softmax(-1) + value.bias).sort(dim=-1, descending=True, stable=True).indices
            weight = z.softmax(-1).gather(-1, index)
        kept = weight > own.threshold
        kept[:, : own.k] = True
        for expert in own.dropped:
            kept &= index != expert
        shape = (*value.logits.shape[:-1], EXPERTS)
        z = z.view(shape)
        return replace(
            value,
            logits=z,
            probabilities=z.softmax(-1),
            index=index.view(shape),
            weight=weight.where(kept, 0.0).view(shape),
        )


def regated(model: RoutedRegressor, setting: Setting) -> xr.Dataset:
    """What `look` sees of a model behind the gate of ``setting``. With every expert off only the error is a number."""
    if len(set(setting.dropped)) < EXPERTS:
        with attached(model, Regate(setting)):
            return look(model)
    record = look(model)
    nothing = record.map(lambda variable: variable.astype(float) * np.nan, keep_attrs=True)
    return nothing.assign(error=record["error"].copy(data=silent_error()))


def silent_error() -> float:
    """The error of a model that says 0 for every sample."""
    y = held_out()[1]
    return float(y.square().mean() / y.var())


__all__ = ["Regate", "Setting", "regated", "silent_error"]
