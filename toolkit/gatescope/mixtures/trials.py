"""One trial: data from a known mixture, maximum likelihood by two optimisers, and what errors it ends with."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gatescope.mixtures.cases import HALF, Case, draw, start_near
from gatescope.mixtures.distance import hellinger
from gatescope.mixtures.em import Fit, fit_em
from gatescope.mixtures.mixture import GaussianMoE
from gatescope.mixtures.polish import polish
from gatescope.mixtures.voronoi import LARGEST_CELL, cell_errors, cell_sizes, voronoi_loss
from gatescope.records import Quantity

#: Data sets of one seed, over which errors are medians.
REPLICATES = 24
#: EM steps before L-BFGS takes over.
EM_STEPS = 200
STAGES = ("EM", "EM, then L-BFGS")
_SOURCE = "Nguyen et al. 2023 (arXiv 2309.13850); medians over the data sets of a seed"


def _error(name: str, long_name: str, formula: str, *dims: str) -> Quantity:
    return Quantity(name, dims, "1", long_name, formula, _SOURCE, "the truth itself: 0")


#: What `errors` gives.
QUANTITIES = (
    _error("hellinger", "Hellinger distance", "mean over x of sqrt(1 - integral sqrt(p q) dy)"),
    _error("voronoi_loss", "Voronoi loss", "see gatescope.mixtures.voronoi_loss"),
    _error("error_alone", "error in cells of one expert", "sqrt(sum p_e |d theta_e|^2), cells of one", "parameter"),
    _error("error_shared", "error in shared cells", "sqrt(sum p_e |d theta_e|^2), cells of two or more", "parameter"),
    _error("error_temperature", "error of the temperature", "|log tau - log tau*|"),
    _error("capped", "share of fits whose optimiser had not come to rest", "mean(not converged)"),
)


def fit_case(case: Case, n: int, seed: int, replicates: int = REPLICATES) -> dict[str, Fit]:
    """Both stages of maximum likelihood on ``replicates`` data sets of ``n`` samples.

    Cases with one truth get the same data from the same ``seed``.
    """
    generator = torch.Generator().manual_seed(1_000_003 * seed + n)
    x, y = draw(case.truth, n, replicates, generator)
    fit = fit_em(start_near(case, replicates, generator), x, y, iterations=EM_STEPS)
    return dict(zip(STAGES, (fit, polish(fit, x, y)), strict=True))


def errors(case: Case, fit: Fit) -> dict[str, np.ndarray]:
    """Median over data sets of every error of a fit; NaN where a case has no such error.

    A data set whose fit has none, no shared cell or a cell so full that its exponent is not known, is left out of that
    median.
    """
    inputs = torch.linspace(-0.98 * HALF, 0.98 * HALF, 24, dtype=torch.float64)[:, None]
    own, truth = fit.mixture, case.truth
    found = {
        "hellinger": hellinger(own, truth, inputs),
        "voronoi_loss": _voronoi(own, truth),
        "error_alone": cell_errors(own, truth, shared=False)[0],
        "error_shared": cell_errors(own, truth, shared=True)[0],
        "error_temperature": (own.log_temperature - truth.log_temperature).abs(),
    }
    if case.router.temperature == "fixed":
        found["error_temperature"] = torch.full_like(found["hellinger"], torch.nan)
    medians = {name: values.nanmedian(0).values.numpy() for name, values in found.items()}
    return {**medians, "capped": np.asarray(float((~fit.converged).double().mean()))}


def _voronoi(own: GaussianMoE, truth: GaussianMoE) -> Float[Tensor, " R"]:
    """`voronoi_loss`, NaN where a cell holds more experts than it has exponents for."""
    known = cell_sizes(own, truth).amax(-1) <= LARGEST_CELL
    found = torch.full(known.shape, torch.nan, dtype=own.slope.dtype)
    if known.any():
        found[known] = voronoi_loss(own.at(known), truth)
    return found
