"""How a quantity emerges over training: laws with a few parameters, their fits, and what an architecture foretells.

    fit = fit_law(steps, ratios)                         # the exponentially modulated logarithm, five parameters
    fit.parameters, fit.errors, fit.r2, fit.residuals
    turning_point(**{name: fit.parameters[name] for name in ("decay", "rate", "offset")})
    held_out_error(steps, ratios, steps > 500)           # fitted without those steps, judged on them alone
    {name: found.aic for name, found in compare_laws(steps, ratios).items()}

Source of the law: Gallego-Feliciano et al. 2025, Hidden Dynamics of Massive Activations (arXiv 2508.03616), eq. 9.
"""

from gatescope.emergence.architecture import FEATURES, architecture_features, predict_left_out, r_squared
from gatescope.emergence.fits import Fit, compare_laws, fit_law, held_out_error
from gatescope.emergence.laws import LAWS, MODULATED, Law, modulated_logarithm, turning_point

__all__ = [
    "FEATURES",
    "LAWS",
    "MODULATED",
    "Fit",
    "Law",
    "architecture_features",
    "compare_laws",
    "fit_law",
    "held_out_error",
    "modulated_logarithm",
    "predict_left_out",
    "r_squared",
    "turning_point",
]
