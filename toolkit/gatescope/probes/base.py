"""What a probe is: a streaming reducer from tap events to a labelled dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from typing import Any, ClassVar, Self

import torch
import xarray as xr
from torch import Tensor

from gatescope.errors import Refusal
from gatescope.probes._sums import LayerSums
from gatescope.records import Quantity, measured
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

    def merged(self, parts: Iterable[LayerSums]) -> Self:
        """A probe like this one that saw what all ``parts`` saw, which other processes kept; this one stays as it is.

        Raises Refusal where something kept cannot be merged, such as the map of one sequence.
        """
        whole = copy(self)
        whole.reset()
        for part in parts:
            whole.sums.absorb(part, whole._join)
        return whole

    def _join(self, name: str, own: Tensor, other: Tensor) -> Tensor:
        """Merge what was `put` under ``name``; a probe that ranks or samples says how."""
        raise Refusal(
            type(self).__name__,
            "numbers that processes can merge",
            f"{name} kept by two of them",
            "leave keep=True to one process",
        )

    @classmethod
    def describe(cls) -> list[dict[str, str]]:
        """What this probe measures: one row a variable with formula, unit, source and baseline."""
        return [{"probe": cls.name, **quantity.row()} for quantity in cls.quantities]

    def _record(self, variables: Mapping[str, tuple[Any, Mapping[str, Any]]], **coords: Any) -> xr.Dataset:
        """A record from ``{variable: (data, attributes)}``, the layers seen as the coordinate of ``layer``."""
        defined = {quantity.name: quantity for quantity in self.quantities}
        labels = {"layer": self.sums.layers, **coords}
        return measured({defined[name]: found for name, found in variables.items()}, labels)


def text_positions(event: Event, shape: tuple[int, int], device: torch.device) -> Tensor:
    """[B T], True where a row is text and not padding. Row i of T stands at key i + S - T, as in the operator."""
    if event.key_mask is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    return event.key_mask[:, -shape[1] :].to(device).expand(shape)


__all__ = ["Probe", "text_positions"]
