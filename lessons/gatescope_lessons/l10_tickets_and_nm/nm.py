"""N:M sparsity: cut once, tuned afterwards, or trained from scratch by three rules; and how restless the masks are."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import xarray as xr
from gatescope import records
from gatescope.models import Classifier
from gatescope.records import Quantity
from gatescope.sparsifiers import NMSpec, divergence, hold_masks, mask_weights, nm_masks, to_nm
from torch import nn

from gatescope_lessons.l10_tickets_and_nm.runs import (
    BLOCKS,
    EVERY,
    STEPS,
    held_out_accuracy,
    held_out_nll,
    measured_steps,
    train,
)

PATTERNS = ("2:4",)
#: How an N:M network came about. "one-shot" cuts the dense one; "tuned" trains on, for half as many steps again, with
#: that mask; the others are trained from the beginning: with the mask of the initial weights, and by two rules.
RULES = ("dense", "one-shot", "tuned", "fixed from the start", "STE", "SR-STE")
#: The output layer stays dense.
DENSE = ("layers.2",)

_SOURCE = "Zhou et al. 2021 (arXiv 2102.04010)"
_NLL = Quantity(
    "nm_nll",
    ("rule", "pattern"),
    "nats",
    "loss on held-out digits",
    "-log p(label), mean over 360 images",
    _SOURCE,
    "guessing: log 10",
)
_ACCURACY = Quantity(
    "nm_accuracy",
    ("rule", "pattern"),
    "1",
    "accuracy on held-out digits",
    "share of 360 images whose largest logit is at their label",
    _SOURCE,
    "guessing: 0.1",
)
_SAD = Quantity(
    "sad",
    ("rule", "pattern", "step"),
    "1",
    "SAD: share of weights whose place in the mask changed",
    f"|mask(step) - mask(step - {EVERY})|_1 / number of masked weights",
    _SOURCE,
    "independent masks: 2 (N/M)(1 - N/M)",
)


def pattern(text: str) -> tuple[int, int]:
    """(N, M) of "N:M"."""
    n, m = text.split(":")
    return int(n), int(m)


def sparse(seed: int, spec: NMSpec) -> nn.Module:
    """The untrained network of a seed, its hidden layers read N:M."""
    return to_nm(Classifier(BLOCKS, init_seed=seed), spec, DENSE)


def cut_once(dense: nn.Module, spec: NMSpec) -> nn.Module:
    """A copy of a dense network with the largest N of each M, the others set to 0."""
    model = to_nm(deepcopy(dense), spec, DENSE)
    mask_weights(model, nm_masks(model))
    return model


def restless(model: nn.Module, seed: int, steps: int = STEPS) -> dict[int, float]:
    """Train an N:M network in place; SAD over the `EVERY` steps before each measured step, NaN at step 0."""
    found, before = {}, nm_masks(model)
    for step in measured_steps(model, seed, steps):
        now = nm_masks(model)
        found[step] = divergence(before, now) if step else float("nan")
        before = now
    return found


def measure_nm(seed: int, patterns: Sequence[str] = PATTERNS, steps: int = STEPS) -> xr.Dataset:
    """Loss, accuracy and SAD by rule and pattern. All runs see the same batches; tuning goes on with new ones."""
    dense = train(Classifier(BLOCKS, init_seed=seed), seed, steps)
    cells = [_networks(dense, seed, *pattern(text), steps) for text in patterns]
    coords = {"rule": list(RULES), "pattern": list(patterns)}
    at = list(cells[0][1]["STE"])
    nothing = dict.fromkeys(at, float("nan"))
    sad = [[list(curves.get(rule, nothing).values()) for _, curves in cells] for rule in RULES]
    return records.new(
        {
            "nm_nll": _NLL.variable(_table(cells, held_out_nll), coords, baseline_value=float(np.log(10))),
            "nm_accuracy": _ACCURACY.variable(_table(cells, held_out_accuracy), coords, baseline_value=0.1),
            "sad": _SAD.variable(np.array(sad), {**coords, "step": at}),
        }
    )


def _networks(
    dense: nn.Module, seed: int, n: int, m: int, steps: int
) -> tuple[dict[str, nn.Module], dict[str, dict[int, float]]]:
    """Networks by rule, and the curve of SAD of those trained by a rule."""
    fixed = NMSpec(n=n, m=m, rule="masked")
    networks = {"dense": dense, "one-shot": cut_once(dense, fixed), "tuned": cut_once(dense, fixed)}
    networks["fixed from the start"] = sparse(seed, fixed)
    for name, order, length in (("tuned", seed + 7919, steps // 2), ("fixed from the start", seed, steps)):
        hold_masks(networks[name], nm_masks(networks[name]))
        train(networks[name], order, length)
    curves = {}
    for name, spec in (("STE", NMSpec(n=n, m=m, rule="ste")), ("SR-STE", NMSpec(n=n, m=m))):
        networks[name] = sparse(seed, spec)
        curves[name] = restless(networks[name], seed, steps)
    return networks, curves


def _table(cells: Sequence[tuple], of: object) -> np.ndarray:
    return np.array([[of(networks[rule]) for networks, _ in cells] for rule in RULES])  # type: ignore[operator]
