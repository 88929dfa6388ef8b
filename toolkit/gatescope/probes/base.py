"""What a probe is: a streaming reducer from tap events to a labelled dataset."""

from __future__ import annotations

from typing import ClassVar

import xarray as xr

from gatescope.taps import Handler


class Probe(Handler):
    """Watches a forward pass and keeps O(layers x heads) or O(tokens) numbers, never T x T.

    A probe says what it measures once, here, and every figure repeats it:

    name       the probe's row in PROBES
    formula    the equation, in the symbols of dims.py
    unit       unit of the result
    source     where the definition comes from
    baseline   the value on a random or uniform input, in words with the formula
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    unit: ClassVar[str]
    source: ClassVar[str]
    baseline: ClassVar[str]

    def finalize(self) -> xr.Dataset:
        """The numbers so far, with dims of dims.py and `units`, `long_name`, `formula`, `source`, `baseline` on each
        variable. Raises Refusal when nothing was seen, NonFiniteError when what was seen holds NaN."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget everything seen."""
        raise NotImplementedError
