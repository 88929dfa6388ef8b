"""What the panels and cells of lesson 10 compute while the learner waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

import numpy as np
import torch
import xarray as xr
from gatescope import records
from gatescope.errors import Refusal
from gatescope.models import Classifier
from gatescope.records import Quantity
from gatescope.sparsifiers import Masks, NMSpec, PruneSpec, kept_share, mask_weights, prune, rewound, shuffled
from gatescope.sparsifiers import winning_tickets as search
from gatescope.weights import weight_record
from gatescope_kernels import nm_mask
from torch import Tensor, nn

from gatescope_lessons.l10_tickets_and_nm.nm import BLOCKS, DENSE
from gatescope_lessons.l10_tickets_and_nm.runs import held_out_accuracy, learning_curve, lenet, train
from gatescope_lessons.l10_tickets_and_nm.tickets import STARTS

CUTS = ("whole", "smallest cut", "random cut")
#: Which N weights of a group stay, and how their order comes about.
PICKS: dict[str, Callable[[Tensor], Tensor]] = {
    "the N largest": torch.abs,
    "N at random": lambda w: torch.rand(w.shape, generator=torch.Generator().manual_seed(0)) + 0.01,
    "the N smallest": lambda w: 1 / (w.abs() + 1e-9),
}
#: Outputs drawn of a weight matrix.
ROWS = 16

_ACCURACY = ("1", "accuracy on held-out digits", "share of 360 images read right", "measured", "guessing: 0.1")
_PRUNED = Quantity("pruned_accuracy", ("variant", "seed"), *_ACCURACY)
_CURVE = Quantity("accuracy", ("variant", "step"), *_ACCURACY)
_WEIGHT = Quantity(
    "masked_weight", ("hidden", "dim"), "1", "weight", "w where the mask is 1", "measured", "see the dense weight"
)


def trained_networks(seeds: Sequence[int] = (0, 1, 2), steps: int = 400) -> list[nn.Module]:
    """Dense LeNets, trained now."""
    return [train(lenet(seed), seed, steps) for seed in seeds]


def trained_blocks(seed: int = 0, steps: int = 400) -> nn.Module:
    """The dense network whose inputs groups of 16 divide, trained now."""
    return train(Classifier(BLOCKS, init_seed=seed), seed, steps)


def prune_now(networks: Sequence[nn.Module], share: float, scope: str) -> tuple[xr.Dataset, xr.Dataset]:
    """Accuracy of trained networks after cutting ``share`` of their weights once, and what is left of the first.

    Nothing is trained afterwards. Random cuts leave every layer as many weights as the cut by magnitude does.
    """
    accuracy, first = [], networks[0]
    for place, network in enumerate(networks):
        masks = prune(network, PruneSpec(share=share, scope=scope))  # type: ignore[arg-type]
        cut = _masked(network, masks)
        first = first if place else cut
        both = [held_out_accuracy(cut), held_out_accuracy(_masked(network, shuffled(masks, place)))]
        accuracy.append([held_out_accuracy(network), *both])
    coords = {"variant": list(CUTS), "seed": list(range(len(networks)))}
    values = _PRUNED.variable(np.array(accuracy).T, coords, baseline_value=0.1)
    note = f"{share:.1%} of the weights cut, {scope}; a point is a trained network"
    return records.new({"pruned_accuracy": values}, note=note), weight_record(first, patterns=())


def nm_now(network: nn.Module, n: int, m: int, layer: int = 0) -> tuple[xr.Dataset, dict[str, float]]:
    """The first rows of a layer's weight under its N:M mask, and accuracy without training by what was kept.

    Raises Refusal for patterns that are none and for inputs that M does not divide.
    """
    NMSpec(n=n, m=m)
    weights = {name: w.detach() for name, w in network.named_parameters() if w.ndim == 2}
    hidden = {name: w for name, w in weights.items() if name.removesuffix(".weight") not in DENSE}
    if layer not in range(len(hidden)):
        raise Refusal("nm_now", f"a hidden layer of 0 to {len(hidden) - 1}", str(layer), "the output layer stays dense")
    found = {"dense": held_out_accuracy(network)}
    for name, score in PICKS.items():
        masks = {parameter: nm_mask(score(w), n, m) for parameter, w in hidden.items()}
        found[name] = held_out_accuracy(_masked(network, masks))
    shown = list(hidden.values())[layer][:ROWS]
    kept = torch.where(nm_mask(shown, n, m), shown, torch.nan)
    variable = _WEIGHT.variable(kept.numpy(), group=m)
    note = f"{n}:{m}, the first {len(shown)} outputs of layer {layer}"
    return records.new({"masked_weight": variable}, note=note), found


def _masked(network: nn.Module, masks: Masks) -> nn.Module:
    model = deepcopy(network)
    mask_weights(model, masks)
    return model


def search_now(seed: int = 0, rounds: int = 4, share: float = 0.5, steps: int = 100) -> xr.Dataset:
    """A short search for a ticket, and learning curves of the dense network, the ticket and its two controls."""
    curves: dict[str, dict[int, float]] = {}
    spec = PruneSpec(share=share, shares=(("layers.2.weight", share / 2),))
    *_, last = search(lenet(seed), lambda model: learning_curve(model, seed, steps), spec, rounds)
    curves["dense"] = learning_curve(lenet(seed), seed + 1, steps)
    for name, initial, masks in (
        (STARTS[0], lenet(seed), last.masks),
        (STARTS[1], lenet(seed + 1000), last.masks),
        (STARTS[2], lenet(seed), shuffled(last.masks, seed)),
    ):
        curves[name] = learning_curve(rewound(initial, masks), seed + 1, steps)
    values = np.array([list(curve.values()) for curve in curves.values()])
    coords = {"variant": list(curves), "step": list(curves["dense"])}
    note = f"{kept_share(last.masks):.1%} of the weights, {rounds} rounds"
    return records.new({"accuracy": _CURVE.variable(values, coords, baseline_value=0.1)}, note=note)
