"""The rows of lesson 09: what made the data, and what is fitted to them."""

from __future__ import annotations

from gatescope.mixtures import RouterSpec
from gatescope.mixtures.cases import DENSE, SPARSE, Case, cooled

CASES: dict[str, Case] = {
    "dense exact": Case(DENSE, (0, 1), RouterSpec()),
    "dense over": Case(DENSE, (0, 0, 1), RouterSpec()),
    "dense over, K = 2": Case(DENSE, (0, 0, 1), RouterSpec(k=2)),
    "top-2 exact": Case(SPARSE, (0, 1, 2), RouterSpec(k=2)),
    "top-2 over, K = 3": Case(SPARSE, (0, 1, 1, 2), RouterSpec(k=3)),
    "top-2 over, K = 2": Case(SPARSE, (0, 1, 1, 2), RouterSpec(k=2)),
    "temperature, linear": Case(cooled("identity"), (0, 1), cooled("identity").router),
    "temperature, tanh": Case(cooled("tanh"), (0, 1), cooled("tanh").router),
}
