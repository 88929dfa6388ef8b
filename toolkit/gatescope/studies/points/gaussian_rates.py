"""A Gaussian mixture of experts fitted to data from a sparse one, with as many experts or more, K of them on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gatescope.errors import Refusal

if TYPE_CHECKING:
    import xarray as xr

#: Fitted experts -> for each the expert of the truth that it starts near. Surplus ones start near the middle expert,
#: which is on for every input, so that the truth is among the fits where K is one below their number.
STARTS: dict[int, tuple[int, ...]] = {3: (0, 1, 2), 4: (0, 1, 1, 2), 5: (0, 1, 1, 1, 2)}
#: Samples that a line and its noise want.
_FEWEST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RateRun:
    """What is fitted to `mixtures.cases.SPARSE`, three experts of which two are on; the axes of the study.

    experts     fitted ones: 3 is exact, 4 and 5 are over-specified
    k           how many of them stay on at an input; all of them is the dense gate
    samples     n of one data set
    replicates  data sets, over which errors are medians
    seed        of the data sets, the same for all fits, and of the starts

    Raises Refusal for other numbers of experts, a k above it, too few samples and no data set.
    """

    experts: int = 3
    k: int = 2
    samples: int = 250
    replicates: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        if self.experts not in STARTS:
            raise Refusal("RateRun", f"experts among {tuple(STARTS)}", str(self.experts), "choose one of them")
        if not 1 <= self.k <= self.experts:
            got = f"k={self.k} of {self.experts}"
            raise Refusal("RateRun", "k from 1 to the number of fitted experts", got, "lower k")
        if self.samples < _FEWEST or self.replicates < 1:
            got = f"{self.samples} samples, {self.replicates} data sets"
            raise Refusal("RateRun", f"{_FEWEST} samples or more of one data set or more", got, "draw more")


def measure(run: RateRun) -> xr.Dataset:
    """Maximum likelihood by EM and L-BFGS, and its errors: medians over the data sets, see `mixtures.trials.errors`.

    A fit with as many experts as the truth has no shared cell to speak of, and so no error there.
    """
    from gatescope import records
    from gatescope.mixtures import RouterSpec
    from gatescope.mixtures.cases import SPARSE, Case
    from gatescope.mixtures.trials import QUANTITIES, STAGES, errors, fit_case
    from gatescope.mixtures.voronoi import GROUPS

    case = Case(SPARSE, STARTS[run.experts], RouterSpec(k=run.k))
    found = errors(case, fit_case(case, run.samples, run.seed, run.replicates)[STAGES[-1]])
    absent = {"error_temperature"} | ({"error_shared"} if case.exact else set())
    labels = {"parameter": list(GROUPS)}
    return records.new(
        {
            quantity.name: quantity.variable(found[quantity.name], {dim: labels[dim] for dim in quantity.dims})
            for quantity in QUANTITIES
            if quantity.name not in absent
        }
    )


__all__ = ["STARTS", "RateRun", "measure"]
