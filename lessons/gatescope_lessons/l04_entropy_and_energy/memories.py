"""Memories of lesson 04: half-hidden digits at every beta, by every normaliser, and random patterns on a sphere."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from gatescope import records
from gatescope.hopfield import capacity, retrieval_bound, retrieve, retrieved_share, separation, sphere, update
from gatescope.normalisers import NormaliserSpec, normalise, state_size
from gatescope.records import Quantity
from gatescope.tasks import digits
from jaxtyping import Float
from torch import Tensor

#: Normalisers compared as memories, under the names that figures give them.
VARIANTS = {
    "softmax": NormaliserSpec("softmax"),
    "off by one": NormaliserSpec("off_by_one"),
    "1.5-entmax": NormaliserSpec("entmax", 1.5),
    "sparsemax": NormaliserSpec("sparsemax"),
    "sigmoid": NormaliserSpec("sigmoid"),
}
BETAS = tuple(2.0 ** (e / 2) for e in range(17))
STORED = 100
#: A pattern counts as retrieved when the state is this near, as a share of the pattern's norm.
NEAR = 0.1
DIMENSIONS = (16, 20, 24, 28, 32, 36, 40)
SIZES = tuple(sorted({round(2 ** (e / 2)) for e in range(2, 32)}))
_BOUND_DIM, _BOUND_STORED, _BOUND_BETAS = 32, 200, (0.3, 0.5, 0.7, 0.9)

_RAMSAUER = "Ramsauer et al. 2020 (arXiv 2008.02217)"
_SWEPT = ("variant", "beta")


def _of_memory(name: str, long_name: str, formula: str, baseline: str) -> Quantity:
    return Quantity(name, _SWEPT, "1", long_name, formula, _RAMSAUER, baseline)


_ONCE = _of_memory("retrieved", "share retrieved by one update", f"mean(|xi' - x| <= {NEAR} |x|)", "an empty memory: 0")
_REST = _of_memory("retrieved_at_rest", "share retrieved at rest", f"mean(|xi* - x| <= {NEAR} |x|)", "see retrieved")
_EXACT = _of_memory("exact", "share retrieved without any error", "mean(xi' = x)", "softmax: 0 at any beta")
_SHARE = _of_memory(
    "memory_share", "share of patterns read at rest", "mean of k / N, k for 90 %", "the mean of all: 0.9"
)
_KINDS = Quantity(
    "kind_share",
    (*_SWEPT, "fixed_point"),
    "1",
    "share of states by kind of fixed point",
    "global: k > N/2; metastable: 1 < k <= N/2; single: k = 1",
    _RAMSAUER,
    "beta towards 0: all global",
)
_LEFT = _of_memory("left", "distance left after one update", "median |xi' - xi*| / |xi - xi*|", "no update: 1")
_ZEROS = _of_memory("zeros", "share of weights that are exactly 0", "mean(p = 0), the query's", "softmax: 0")
_SUM = _of_memory("weight_sum", "sum of the weights", "mean of sum_j p_j, the query's", "softmax: 1")
_RISE = _of_memory("energy_rise", "largest rise of the energy", "max of E(xi') - E(xi) over updates", "none: 0 or less")
_CAPACITY = Quantity(
    "capacity",
    ("dimension",),
    "patterns",
    "patterns of which half are retrieved",
    f"N at which half of the queries come within {NEAR} |x| in one update, half of their channels hidden",
    _RAMSAUER,
    "the classical network of signs: 0.138 d",
)
_EXCESS = Quantity(
    "log10_error_over_bound",
    (),
    "1",
    "error of retrieval over its bound, decimal logarithm",
    "max over states and beta of log10(|xi' - x| / bound)",
    f"{_RAMSAUER}, theorem 5",
    "at the bound: 0",
)
_EXPONENT = Quantity(
    "error_exponent",
    (),
    "1",
    "exponent of the retrieval error in beta times the separation",
    "slope of log |xi' - x| over beta Delta_i, all patterns and beta",
    f"{_RAMSAUER}, theorem 5",
    "the bound itself: -1",
)


def digit_patterns(n: int, seed: int) -> Float[Tensor, "n 64"]:
    """``n`` digits drawn without replacement, their mean over all digits removed, each of norm 1; float64."""
    images = digits()[0].flatten(1).double()
    centred = images - images.mean(0)
    chosen = torch.randperm(len(centred), generator=torch.Generator().manual_seed(seed))[:n]
    picked = centred[chosen]
    return picked / picked.norm(dim=-1, keepdim=True)


def upper_half(patterns: Float[Tensor, "n 64"], hidden: float = 0.5) -> Float[Tensor, "n 64"]:
    """The patterns with the lower share ``hidden`` of their rows set to 0."""
    rows = round(8 * (1 - hidden))
    return patterns * (torch.arange(64) < 8 * rows)


def sweep(spec: NormaliserSpec, seed: int, betas: Sequence[float] = BETAS, stored: int = STORED) -> dict[str, list]:
    """Every number of `measure_digits` for one normaliser, over beta."""
    patterns = digit_patterns(stored, seed)
    queries = upper_half(patterns)
    found: dict[str, list] = {}
    for beta in betas:
        rest = retrieve(queries, patterns, beta, spec, updates=400, tolerance=1e-7)
        once, weights = rest.states[1], normalise(beta * queries @ patterns.T, spec)
        k = state_size(rest.weights)
        kinds = [k > stored / 2, (k > 1) & (k <= stored / 2), k == 1]
        row = {
            "retrieved": _near(once, patterns),
            "retrieved_at_rest": _near(rest.state, patterns),
            "exact": float((once == patterns).all(-1).double().mean()),
            "memory_share": float(k.double().mean()) / stored,
            "kind_share": [float(kind.double().mean()) for kind in kinds],
            "left": float(((once - rest.state).norm(dim=-1) / (queries - rest.state).norm(dim=-1)).median()),
            "zeros": float((weights == 0).double().mean()),
            "weight_sum": float(weights.sum(-1).mean()),
            "energy_rise": float(rest.energies.diff(dim=0).max()),
        }
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return found


def _near(states: Tensor, patterns: Tensor) -> float:
    return float(((states - patterns).norm(dim=-1) <= NEAR * patterns.norm(dim=-1)).double().mean())


def measure_digits(seed: int, betas: Sequence[float] = BETAS, stored: int = STORED) -> xr.Dataset:
    """Half-hidden digits read by every normaliser at every beta."""
    rows = {variant: sweep(spec, seed, betas, stored) for variant, spec in VARIANTS.items()}
    coords = {"variant": list(VARIANTS), "beta": list(betas), "fixed_point": ["global", "metastable", "single"]}
    return records.new(
        {
            quantity.name: quantity.variable(
                np.array([rows[variant][quantity.name] for variant in VARIANTS]),
                {dim: coords[dim] for dim in quantity.dims},
            )
            for quantity in (_ONCE, _REST, _EXACT, _SHARE, _KINDS, _LEFT, _ZEROS, _SUM, _RISE)
        }
    )


def capacity_of(dim: int, seed: int, sizes: Sequence[int] = SIZES) -> float:
    """How many random patterns on the sphere of radius sqrt(dim - 1) are stored until half of them are lost, beta 1."""
    generator = torch.Generator().manual_seed(1_000 * seed + dim)
    stored = sphere(sizes[-1], dim, math.sqrt(dim - 1), generator)
    return capacity(sizes, retrieved_share(stored, torch.arange(dim) < dim // 2, 1.0, sizes, error=NEAR), 0.5)


def errors_and_bounds(seed: int) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """|xi' - x|, its bound and beta Delta_i, for queries a twentieth of the radius away from random patterns."""
    generator = torch.Generator().manual_seed(31 + seed)
    stored = sphere(_BOUND_STORED, _BOUND_DIM, math.sqrt(_BOUND_DIM - 1), generator)
    state = stored + sphere(_BOUND_STORED, _BOUND_DIM, 0.05 * math.sqrt(_BOUND_DIM - 1), generator)
    every = torch.arange(_BOUND_STORED)
    found = [
        (
            (update(state, stored, b) - stored).norm(dim=-1),
            retrieval_bound(state, stored, every, b),
            b * separation(stored),
        )
        for b in _BOUND_BETAS
    ]
    error, bound, gap = (torch.cat(column) for column in zip(*found, strict=True))
    return error, bound, gap


def measure_sphere(seed: int, dimensions: Sequence[int] = DIMENSIONS, sizes: Sequence[int] = SIZES) -> xr.Dataset:
    """Capacity by dimension, and the error of one update beside what is proved of it."""
    error, bound, gap = errors_and_bounds(seed)
    capacities = [capacity_of(dim, seed, sizes) for dim in dimensions]
    return records.new(
        {
            "capacity": _CAPACITY.variable(capacities, {"dimension": list(dimensions)}),
            "log10_error_over_bound": _EXCESS.variable(float((error / bound).log10().max())),
            "error_exponent": _EXPONENT.variable(float(np.polyfit(gap.numpy(), error.log().numpy(), 1)[0])),
        }
    )
