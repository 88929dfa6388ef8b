"""What the panels of lesson 03 compute: a law at given parameters, and SmolLM2 with one number changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cache

import numpy as np
import xarray as xr
from gatescope import records
from gatescope.emergence import LAWS, MODULATED, Fit, turning_point
from gatescope.errors import Refusal
from gatescope.interventions import Intervention, ZeroDims
from gatescope.models import next_token_nll
from gatescope.models.smollm2 import Pretrained, load_smollm2
from gatescope.probes import Massive
from gatescope.recorder import measure
from gatescope.records import Quantity
from gatescope.tasks.text import TEXTS
from jaxtyping import Float
from torch import nn

from gatescope_lessons.l01_where_attention_goes.lab import massive_site
from gatescope_lessons.l03_massive_activations.formed import OTHER_POSITION
from gatescope_lessons.l03_massive_activations.lab import layers_of, series

_SERIES = Quantity(
    "series_value", ("step",), "1", "largest over median magnitude", "see massive_ratio", "measured", "normal: about 7"
)
_LAW = Quantity("law_value", ("law", "step"), "1", "law", "see gatescope.emergence", "eq. 9", "the mean")
SHAPE = ("decay", "rate", "offset")
#: What can be done to the number, on the page -> how.
CHANGES = ("nothing", "zero it", "zero a random dimension", f"zero it at token {OTHER_POSITION}")


def drawn_laws(steps: Sequence[float] | np.ndarray, values: np.ndarray, laws: Mapping[str, np.ndarray]) -> xr.Dataset:
    """A series and laws at its steps, for views.law_fit."""
    coords = {"step": np.asarray(steps), "law": list(laws)}
    variables = {
        "series_value": _SERIES.variable(values, coords),
        "law_value": _LAW.variable(np.stack(list(laws.values())), coords),
    }
    return records.new(variables)


def chosen(record: xr.Dataset, variant: str, seed: int, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """`lab.series`, refused by name for a layer that the variant lacks."""
    if layer not in layers_of(variant):
        last = layers_of(variant)[-1]
        raise Refusal("law panel", f"a layer of 0 to {last}", str(layer), f"{variant!r} has {last + 1} layers")
    return series(record, variant, seed, layer)


def judged(
    steps: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"], parameters: Mapping[str, float], best: Fit
) -> dict[str, float]:
    """What the card of the law panel says of the parameters set: R^2, RMSE and the step at which the law turns."""
    left = values - LAWS[MODULATED].value(steps, dict(parameters))
    around = float(((values - values.mean()) ** 2).sum())
    return {
        "R²": 1 - float((left**2).sum()) / around,
        "R² of the fit": best.r2,
        "RMSE": float(np.sqrt(np.mean(left**2))),
        "turns at step": turning_point(**{name: parameters[name] for name in SHAPE}),
    }


@cache
def _pretrained() -> Pretrained:
    return load_smollm2()


def _pass(text: str, change: Intervention | None) -> xr.Dataset:
    """What Massive sees of one forward pass, and its loss as the attribute ``nll``."""
    pretrained, losses = _pretrained(), list[float]()
    tokens = pretrained.tokenizer.prepare(TEXTS[text].text)

    def forward(model: nn.Module) -> None:
        losses.append(float(next_token_nll(model, tokens).mean()))

    with nullcontext() if change is None else change.on(pretrained.model):
        record = measure(pretrained.model, [Massive()], forward)
    return record.assign_attrs(nll=losses[0])


@cache
def plain(text: str) -> xr.Dataset:
    """SmolLM2 as it is reads a text of TEXTS."""
    return _pass(text, None)


def changed_number(text: str, change: str, layer: int) -> xr.Dataset:
    """SmolLM2 reads ``text`` while the number at the first token, in the dimension of the massive activation, is
    changed after ``layer``: largest and median magnitude by layer, the loss as ``nll`` and, as ``nll_plain``, without.

    Raises Refusal for a change that is none of CHANGES.
    """
    without = plain(text)
    _, dim = massive_site(without)
    record = without if change == CHANGES[0] else _pass(text, _intervention(change, layer, dim))
    return record.assign_attrs(nll_plain=without.attrs["nll"], dim=dim, note=f"{text}: {change}")


def _intervention(change: str, layer: int, dim: int) -> Intervention:
    zero = ZeroDims([dim], after_layers=[layer], positions=[0])
    known = {
        CHANGES[1]: zero,
        CHANGES[2]: zero.control(0),
        CHANGES[3]: ZeroDims([dim], after_layers=[layer], positions=[OTHER_POSITION]),
    }
    if change not in known:
        raise Refusal("changed_number", f"a change of {CHANGES}", repr(change), "choose one of them")
    return known[change]


__all__ = ["CHANGES", "SHAPE", "changed_number", "chosen", "drawn_laws", "judged", "plain"]
