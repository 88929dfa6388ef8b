"""One digit read from a memory, as a record that views can draw: what the first panel of lesson 04 shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from gatescope import records
from gatescope.errors import Refusal
from gatescope.hopfield import Retrieval, retrieve, separation
from gatescope.normalisers import entropy, state_size
from gatescope.records import Quantity
from gatescope.tasks import digits
from jaxtyping import Float
from torch import Tensor

from gatescope_lessons.l04_entropy_and_energy.memories import NEAR, VARIANTS, digit_patterns, upper_half

_SOURCE = "Ramsauer et al. 2020 (arXiv 2008.02217)"
_IMAGE = Quantity(
    "state_image",
    ("picture", "pixel"),
    "1",
    "grey value",
    "the mean of all digits plus the state times the mean norm of what differs from it",
    _SOURCE,
    "the mean of all digits: a state of 0",
)
_WEIGHT = Quantity(
    "state_weight",
    ("stored",),
    "1",
    "weight of a pattern",
    "normalise(beta X xi) at the last state",
    _SOURCE,
    "the mean of all: 1 / N",
)
_ENERGY = Quantity(
    "energy",
    ("update",),
    "1",
    "energy",
    "-(1/beta) potential(beta X xi) + xi.xi / 2 + log(N) / beta + max |x|^2 / 2",
    _SOURCE,
    "an update never raises it",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One position of the panel's controls.

    beta        inverse temperature
    stored      how many digits the memory holds
    hidden      share of the rows of the query that are hidden, from below
    updates     the most updates
    normaliser  a name in VARIANTS
    digit       which stored digit is asked for
    seed        of the digits that are stored
    """

    beta: float
    stored: int = 100
    hidden: float = 0.5
    updates: int = 1
    normaliser: str = "softmax"
    digit: int = 0
    seed: int = 0


def recalled(setting: Setting) -> xr.Dataset:
    """The query, the states on its way and the pattern meant as images, the weights at the end, the energies.

    In the attributes: kind ("global", "metastable", "single"), k, distance from the pattern meant in its norm,
    retrieved, nearest (whether the query is nearest to the pattern meant), separation, entropy in nats, updates,
    at_rest, and the finding in words. Raises Refusal for a normaliser that VARIANTS lacks, a digit that is not stored
    and values that `gatescope.hopfield.retrieve` refuses.
    """
    if setting.normaliser not in VARIANTS:
        raise Refusal("recalled", f"a normaliser of {tuple(VARIANTS)}", repr(setting.normaliser), "choose one of them")
    if not 0 <= setting.digit < setting.stored:
        got = f"digit {setting.digit} of {setting.stored}"
        raise Refusal("recalled", "a digit that is stored", got, "store more, or ask for an earlier one")
    patterns = digit_patterns(setting.stored, setting.seed)
    meant = patterns[setting.digit : setting.digit + 1]
    query = upper_half(meant, setting.hidden)
    spec = VARIANTS[setting.normaliser]
    found = retrieve(query, patterns, setting.beta, spec, updates=setting.updates, tolerance=1e-6)
    images, names = _on_its_way(found, meant)
    weights = found.weights[0]
    k, away = int(state_size(weights)), float((found.state - meant).norm())
    kind = "single" if k == 1 else "global" if k > setting.stored / 2 else "metastable"
    retrieved = away <= NEAR
    read = {"single": "a single pattern", "global": f"an average over {k} of {setting.stored} patterns"}
    return records.new(
        {
            "state_image": _IMAGE.variable(images, {"picture": names}),
            "state_weight": _WEIGHT.variable(weights.numpy()),
            "energy": _ENERGY.variable(found.energies[:, 0].numpy()),
        },
        finding=f"{'Retrieved' if retrieved else f'{away:.2f} away from the digit meant'}: the state reads "
        f"{read.get(kind, f'a metastable state of {k} patterns')}",
        note=f"beta {setting.beta:g}, {setting.normaliser}, {setting.stored} digits",
        kind=kind,
        k=k,
        distance=away,
        retrieved=retrieved,
        nearest=bool((query @ patterns.T).argmax() == setting.digit),
        separation=float(separation(patterns)[setting.digit]) if setting.stored > 1 else float("nan"),
        entropy=float(entropy(weights)),
        weight_sum=float(weights.sum()),
        updates=found.updates,
        at_rest=found.at_rest,
    )


def _on_its_way(found: Retrieval, meant: Float[Tensor, "1 d"]) -> tuple[np.ndarray, list[str]]:
    shown = sorted({0, 1, 2, found.updates} & set(range(found.updates + 1)))
    names = {0: "query", found.updates: f"after {found.updates} update" + "s" * (found.updates > 1)}
    states = torch.cat([found.states[shown, 0], meant])
    mean, norm = _grey()
    titles = [*(names.get(step, f"after {step}") for step in shown), "meant"]
    return (mean + norm * states).numpy(), titles


def _grey() -> tuple[Float[Tensor, " d"], float]:
    """The mean of all digits and the mean norm of what differs from it: how a state becomes an image."""
    images = digits()[0].flatten(1).double()
    mean = images.mean(0)
    return mean, float((images - mean).norm(dim=-1).mean())
