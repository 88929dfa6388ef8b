"""Activation sparsity: how many hidden channels of an MLP a token uses."""

from __future__ import annotations

import math

import torch
import xarray as xr

from gatescope.errors import Refusal
from gatescope.probes._sums import precise
from gatescope.probes.base import Probe, text_positions
from gatescope.records import Quantity
from gatescope.taps import Event

_HURLEY = "Hurley and Rickard 2009, Comparing Measures of Sparsity; Hoyer 2004"
_LI = "Li et al. 2022, The Lazy Neuron Phenomenon"
_OURS = "metrics of this project, after Li et al. 2022"


class ActivationSparsity(Probe):
    """Hidden activations a [F] of each MLP, as they enter its down projection. Padding is left out.

        zeros = share of a_f = 0,    small = share of |a_f| <= threshold * max_f |a_f|
        Hoyer = (sqrt(F) - |a|_1 / |a|_2) / (sqrt(F) - 1)

    threshold  share of a token's own largest magnitude up to which a channel counts as not used; 0: exact zeros

    A neuron that no token of the window (everything seen since `reset`) uses is silent. Tokens whose activations are
    all 0 have no Hoyer index and are left out of its mean. Raises Refusal for a single hidden channel.

    Dense blocks alone are measured: experts compute their hidden activations inside one grouped product. A model whose
    blocks are all experts is refused when the probe is attached; where some are dense, the record has their layers.
    """

    name = "activations"
    sites = frozenset({"mlp"})
    quantities = (
        Quantity(
            "activation_zeros",
            ("layer",),
            "1",
            "share of activations that are zero",
            "share over tokens and channels of a = 0",
            _LI,
            "continuous values: 0; ReLU of values symmetric around 0: 0.5",
        ),
        Quantity(
            "activation_small",
            ("layer",),
            "1",
            "share of activations near zero",
            "share over tokens and channels of |a| <= threshold * max over F of |a|",
            _OURS,
            "standard normal: about 0.8 threshold sqrt(2 log F)",
        ),
        Quantity(
            "activation_hoyer",
            ("layer",),
            "1",
            "Hoyer sparsity of activations",
            "mean over tokens of (sqrt(F) - |a|_1 / |a|_2) / (sqrt(F) - 1): 0 all alike, 1 a single channel",
            _HURLEY,
            "normal: (sqrt(F) - F Gamma(F/2) / (sqrt(pi) Gamma((F+1)/2))) / (sqrt(F) - 1), about 0.2",
        ),
        Quantity(
            "neurons_silent",
            ("layer",),
            "1",
            "share of neurons that never fire",
            "share of channels with |a| <= threshold * max over F of |a| at every token of the window",
            _LI,
            "continuous values, many tokens: 0",
        ),
    )

    def __init__(self, threshold: float | int = 0.01) -> None:
        super().__init__()
        if not 0 <= threshold < 1:
            raise Refusal("ActivationSparsity", "a threshold in [0, 1)", str(threshold), "the usual value is 0.01")
        self.threshold = threshold

    def watch(self, event: Event) -> None:
        """Add the hidden activations of one MLP."""
        B, T, F = event.value.shape
        if F < 2:
            raise Refusal(
                "ActivationSparsity", "two hidden channels or more", f"one in layer {event.layer}", "leave it out"
            )
        a = event.value.detach()[text_positions(event, (B, T), event.value.device)].abs()
        largest = a.amax(-1) if len(a) else a.new_zeros(0)
        used = a > self.threshold * largest[:, None]
        dtype = precise(a)
        one, two = (torch.linalg.vector_norm(a, order, dim=-1, dtype=dtype) for order in (1, 2))
        known = two != 0
        hoyer = (math.sqrt(F) - one / torch.where(known, two, 1)) / (math.sqrt(F) - 1)
        self.sums.add(
            event.layer,
            zeros=(a == 0).sum(),
            small=used.numel() - used.sum(),
            hoyer=torch.where(known, hoyer, 0).sum(),
            known=known.sum(),
            fired=used.sum(0),
            values=torch.tensor(a.numel(), device=a.device),
            tokens=torch.tensor(len(a), device=a.device),
        )

    def finalize(self) -> xr.Dataset:
        """Everything in ``quantities``, with the threshold and the tokens of the window as attributes."""
        sums = self.sums
        seen = ("tokens with activations", "give the model text")
        fired = sums.read("fired")
        F = fired.shape[-1]
        record = self._record(
            {
                "activation_zeros": (sums.mean("zeros", "values", *seen), {"baseline_value": 0.0}),
                "activation_small": (sums.mean("small", "values", *seen), {}),
                "activation_hoyer": (
                    sums.mean("hoyer", "known", "activations that are not all 0", "look for a dead layer"),
                    {"baseline_value": normal_hoyer(F)},
                ),
                "neurons_silent": ((fired == 0).mean(-1), {"baseline_value": 0.0}),
            }
        )
        for variable in record.data_vars.values():
            variable.attrs.update(threshold=self.threshold, window_tokens=int(sums.read("tokens").max()))
        return record


def normal_hoyer(F: int) -> float:
    """The expected Hoyer index of F independent normal values of mean 0."""
    ratio = F * math.exp(math.lgamma(F / 2) - math.lgamma((F + 1) / 2)) / math.sqrt(math.pi)
    return (math.sqrt(F) - ratio) / (math.sqrt(F) - 1)


__all__ = ["ActivationSparsity", "normal_hoyer"]
