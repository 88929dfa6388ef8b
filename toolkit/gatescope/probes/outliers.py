"""Outlier sensitivity: what a few large activations cost when all are rounded to int8."""

from __future__ import annotations

from collections.abc import Callable

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from gatescope.errors import Refusal
from gatescope.probes._sums import precise
from gatescope.probes.base import Probe, text_positions
from gatescope.records import Quantity
from gatescope.taps import Event

#: Largest level of symmetric int8.
LEVELS = 127
#: What shares one scale, and the largest magnitude that sets it.
SCALINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "tensor": lambda size: size.amax(),
    "token": lambda size: size.amax(1, keepdim=True),
    "channel": lambda size: size.amax(0, keepdim=True),
}
SITES = ("resid", "mlp")


class OutlierSensitivity(Probe):
    """Relative error of rounding activations x [T D] of one sequence to symmetric int8.

        Q(x) = s round(x / s),    s = max |x| / 127,    error = ||x - Q(x)||^2 / ||x||^2, mean over sequences

    The maximum runs over the whole sequence ("tensor"), over a token ("token") or over a channel of the sequence
    ("channel"): one outlier spoils the first, and one of the others only its own row or column. Padding is left out.
    Documents packed into one sequence count as that one sequence.

    sites  where to measure: "resid", "mlp" or both

    Raises Refusal for another site.
    """

    name = "outliers"
    sites = frozenset({"resid"})
    quantities = (
        Quantity(
            "int8_error",
            ("layer", "site", "scaling"),
            "1",
            "relative error of int8 activations",
            "||x - Q(x)||^2 / ||x||^2, Q(x) = s round(x / s), s = max |x| / 127, mean over sequences",
            "Dettmers et al. 2022, LLM.int8(); Xiao et al. 2023, SmoothQuant",
            "standard normal, per tensor: about 2 log(T D) / (12 * 127^2), 1.2e-4 for T D = 100,000",
        ),
    )

    def __init__(self, sites: tuple[str, ...] = ("resid",)) -> None:
        super().__init__()
        if not sites or not set(sites) <= set(SITES):
            raise Refusal("OutlierSensitivity", f"sites among {SITES}", str(tuple(sites)), "choose one of them or both")
        self.chosen = tuple(site for site in SITES if site in sites)
        self.sites = frozenset(sites)

    def watch(self, event: Event) -> None:
        """Add the activations of one block at one site."""
        x = event.value.detach()
        text = text_positions(event, tuple(x.shape[:2]), x.device)
        for sequence, rows in zip(x, text, strict=True):
            if event.key_mask is not None:
                sequence = sequence[rows]
            if len(sequence):
                error = _relative_errors(sequence)
                self.sums.add(event.layer, **{event.site: error, f"{event.site}_sequences": torch.ones_like(error[0])})

    def finalize(self) -> xr.Dataset:
        """int8_error."""
        wanted = ("sequences with text", "give the model text")
        errors = [self.sums.mean(site, f"{site}_sequences", *wanted) for site in self.chosen]
        found = torch.stack([torch.as_tensor(error) for error in errors], dim=1).numpy()
        return self._record({"int8_error": (found, {})}, site=list(self.chosen), scaling=list(SCALINGS))


def _relative_errors(x: Float[Tensor, "T D"]) -> Float[Tensor, " scaling"]:
    """The error under each of SCALINGS; 0 where x is 0 everywhere. Rounds in fp32 at least, sums in double."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    size, total = x.abs(), x.square().sum(dtype=precise(x))
    errors = []
    for largest in SCALINGS.values():
        scale = largest(size) / LEVELS
        step = torch.where(scale == 0, 1, scale)
        errors.append((x - step * (x / step).round()).square().sum(dtype=precise(x)))
    return torch.stack(errors) / torch.where(total == 0, 1, total)


__all__ = ["SCALINGS", "OutlierSensitivity"]
