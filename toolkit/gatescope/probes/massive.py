"""Massive activations: a few hidden values that dwarf all others."""

from __future__ import annotations

from typing import Any

import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from gatescope.errors import Refusal
from gatescope.probes._sums import precise
from gatescope.probes.base import Probe, text_positions
from gatescope.records import Quantity
from gatescope.taps import Event

_SUN = "Sun et al. 2024, Massive Activations in Large Language Models"
_QIU = "Qiu et al. 2025, Gated Attention for Large Language Models"
#: Sun et al.: massive is a magnitude above FLOOR and at least RATIO times the median of its hidden state.
FLOOR, RATIO = 100.0, 1000.0


class Massive(Probe):
    """Magnitudes |h| of the residual stream leaving each block.

    Maximum, median and ratio are taken over the whole [T, D] of one sequence and one layer, as Sun et al.'s code does,
    then averaged over sequences; the median of an even number of values is the lower one. The ranking is over
    everything seen. Padding is left out. Documents packed into one sequence count as that one sequence.

    ranks  places in the ranking
    keep   keep all of |h| (one sequence only), for a surface over tokens and dims
    """

    name = "massive"
    sites = frozenset({"resid"})
    quantities = (
        Quantity(
            "magnitude_max",
            ("layer",),
            "1",
            "largest magnitude of the hidden state",
            "max over T, D of |h|, mean over sequences",
            _SUN,
            "standard normal: about sqrt(2 log(T D))",
        ),
        Quantity(
            "magnitude_median",
            ("layer",),
            "1",
            "median magnitude of the hidden state",
            "median over T, D of |h|, mean over sequences",
            _SUN,
            "standard normal: 0.6745",
        ),
        Quantity(
            "massive_ratio",
            ("layer",),
            "1",
            "largest over median magnitude",
            "max over T, D of |h| / median over T, D of |h|, mean over sequences",
            _SUN,
            "standard normal: about sqrt(2 log(T D)) / 0.6745, 7 for T D = 100,000",
        ),
        Quantity(
            "massive_count",
            ("layer",),
            "1",
            "massive activations",
            "number of |h| > 100 with |h| >= 1000 x median over T, D, mean over sequences",
            _SUN,
            "standard normal: 0",
        ),
        Quantity(
            "top_value", ("layer", "rank"), "1", "magnitude, by rank", "largest |h| seen", _SUN, "see massive_ratio"
        ),
        Quantity(
            "top_token", ("layer", "rank"), "1", "position of the ranked value", "token of the largest |h|", _SUN, "any"
        ),
        Quantity(
            "top_dim", ("layer", "rank"), "1", "dimension of the ranked value", "dim of the largest |h|", _SUN, "any"
        ),
        Quantity(
            "kurtosis",
            ("layer",),
            "1",
            "kurtosis of the hidden state (raw)",
            "E[(h - mu)^4] / sigma^4 over T, D of a sequence, mean over sequences",
            "Bondarenko et al. 2023, Quantizable Transformers",
            "Gaussian: 3 (raw, not excess)",
        ),
        Quantity(
            "m_act",
            (),
            "1",
            "largest hidden magnitude, mean over layers",
            "mean over layers of magnitude_max",
            f"{_QIU} (M-Act)",
            "standard normal: about sqrt(2 log(T D))",
        ),
        Quantity(
            "magnitude",
            ("layer", "token", "dim"),
            "1",
            "magnitude of the hidden state",
            "|h|",
            _SUN,
            "see magnitude_median",
        ),
    )

    def __init__(self, ranks: int = 5, keep: bool = False) -> None:
        super().__init__()
        if ranks < 1:
            raise Refusal("Massive", "ranks >= 1", str(ranks), "ask for at least the largest")
        self.ranks, self.keep = ranks, keep

    def watch(self, event: Event) -> None:
        """Add the hidden states of one block."""
        h = event.value.detach()
        B, T, _ = h.shape
        text = text_positions(event, (B, T), h.device)
        sequences = [h[b][text[b]] for b in range(B)] if event.key_mask is not None else h.unbind()
        for sequence in sequences:
            if sequence.numel():
                self._add(event.layer, sequence)
        self._rank(event.layer, h.abs(), text)
        if self.keep:
            if B > 1 or self.sums.get(event.layer, "magnitude") is not None:
                raise Refusal(
                    "Massive(keep=True)",
                    "one sequence and one forward pass",
                    f"{B} sequences" if B > 1 else "a second pass",
                    "pass tokens[:1], or call reset() in between, or leave keep out",
                )
            self.sums.put(event.layer, magnitude=h[0].abs().float())

    def _add(self, layer: int | None, sequence: Float[Tensor, "n D"]) -> None:
        h = sequence.flatten().to(precise(sequence))
        magnitude = h.abs()
        largest, median = magnitude.max(), magnitude.median()
        centred = h - h.mean()
        self.sums.add(
            layer,
            maximum=largest,
            median=median,
            ratio=largest / median,
            massive=((magnitude > FLOOR) & (magnitude >= RATIO * median)).sum(),
            kurtosis=centred.pow(4).mean() / centred.pow(2).mean().square(),
            sequences=torch.ones((), device=h.device),
        )

    def _rank(self, layer: int | None, magnitude: Float[Tensor, "B T D"], text: Bool[Tensor, "B T"]) -> None:
        T, D = magnitude.shape[1:]
        shown = magnitude.masked_fill(~text[..., None], -1).flatten().float()
        value, index = shown.topk(min(self.ranks, shown.numel()))
        found = torch.stack(
            [value.to(precise(value)), (index // D % T).to(precise(value)), (index % D).to(precise(value))]
        )
        before = self.sums.get(layer, "top")
        self.sums.put(layer, top=found if before is None else self._join("top", before, found))

    def _join(self, name: str, own: Tensor, other: Tensor) -> Tensor:
        if name != "top":
            return super()._join(name, own, other)
        both = torch.cat([own, other], dim=1)
        return both[:, both[0].topk(min(self.ranks, both.shape[1])).indices]

    def finalize(self) -> xr.Dataset:
        """Everything in ``quantities``; magnitude only with keep=True."""
        sums = self.sums
        wanted = ("sequences with text", "give the model text")
        means = {
            "magnitude_max": "maximum",
            "magnitude_median": "median",
            "massive_ratio": "ratio",
            "massive_count": "massive",
            "kurtosis": "kurtosis",
        }
        variables: dict[str, tuple[Any, dict[str, Any]]] = {
            name: (sums.mean(total, "sequences", *wanted), {}) for name, total in means.items()
        }
        variables["kurtosis"][1]["baseline_value"] = 3.0
        variables["massive_count"][1].update(floor=FLOOR, ratio=RATIO)
        top = sums.read("top")
        variables["top_value"] = (top[:, 0], {})
        variables["top_token"] = (top[:, 1].astype("int64"), {})
        variables["top_dim"] = (top[:, 2].astype("int64"), {})
        variables["m_act"] = (variables["magnitude_max"][0].mean(), {})
        if self.keep:
            variables["magnitude"] = (sums.read("magnitude"), {})
        return self._record(variables)
