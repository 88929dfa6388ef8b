"""Gaussian mixtures of experts as statistics sees them: density, maximum likelihood, distance from the truth.

Letters: R independent data sets fitted side by side, n samples of one, D inputs, E experts. All in float64.
"""

from gatescope.mixtures.distance import hellinger
from gatescope.mixtures.em import Fit, fit_em
from gatescope.mixtures.information import fisher_information
from gatescope.mixtures.mixture import GaussianMoE
from gatescope.mixtures.polish import polish
from gatescope.mixtures.router import ROUTER_ACTIVATIONS, RouterSpec
from gatescope.mixtures.voronoi import cell_errors, voronoi_cells, voronoi_loss

__all__ = [
    "ROUTER_ACTIVATIONS",
    "Fit",
    "GaussianMoE",
    "RouterSpec",
    "cell_errors",
    "fisher_information",
    "fit_em",
    "hellinger",
    "polish",
    "voronoi_cells",
    "voronoi_loss",
]
