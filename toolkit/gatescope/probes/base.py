"""What a probe is: a streaming reducer from tap events to a labelled dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import xarray as xr
from torch import Tensor

from gatescope.probes._sums import LayerSums
from gatescope.records import Quantity, new
from gatescope.taps import Event, Handler


class Probe(Handler):
    """Watches a forward pass and keeps O(layers x heads) or O(tokens) numbers, never T x T.

    A subclass names its row in PROBES (``name``) and every variable it can produce (``quantities``): formula, unit,
    source and baseline are written there once, and every record and figure repeats them. It implements `watch`, in
    which it adds to ``self.sums``, and `finalize`.
    """

    name: ClassVar[str]
    quantities: ClassVar[tuple[Quantity, ...]]

    def __init__(self) -> None:
        self.sums = LayerSums(type(self).__name__)

    def finalize(self) -> xr.Dataset:
        """The numbers so far, with dims of dims.py and `units`, `long_name`, `formula`, `source`, `baseline` on each
        variable. Raises Refusal when nothing was seen, NonFiniteError when what was seen holds NaN."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget everything seen."""
        self.sums = LayerSums(type(self).__name__)

    @classmethod
    def describe(cls) -> list[dict[str, str]]:
        """What this probe measures: one row a variable with formula, unit, source and baseline."""
        return [{"probe": cls.name, **quantity.row()} for quantity in cls.quantities]

    def _record(self, variables: Mapping[str, tuple[Any, Mapping[str, Any]]], **coords: Any) -> xr.Dataset:
        """A record from ``{variable: (data, attributes)}``, the layers seen as the coordinate of ``layer``."""
        defined = {quantity.name: quantity for quantity in self.quantities}
        labels = {"layer": self.sums.layers, **coords}
        return new({name: defined[name].variable(data, labels, **about) for name, (data, about) in variables.items()})


def text_positions(event: Event, shape: tuple[int, int], device: torch.device) -> Tensor:
    """[B T], True where a row is text and not padding. Row i of T stands at key i + S - T, as in the operator."""
    if event.key_mask is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    return event.key_mask[:, -shape[1] :].to(device).expand(shape)


__all__ = ["Probe", "text_positions"]
