"""Least squares for the laws of emergence: a search over the shape alone, the linear parameters solved exactly."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares

from gatescope.emergence.laws import LAWS, MODULATED, Law, Times
from gatescope.errors import NonFiniteError, Refusal

#: Values tried of every shape parameter before the search, and how many of the best are refined.
_GRID, _REFINED = 7, 4
#: Points beyond the number of parameters that a fit must have.
SPARE = 2

Numbers = Sequence[float | int] | np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A law fitted to a series.

    parameters  in units of the values and of steps
    errors      standard errors, from the curvature at the optimum as if residuals were independent and alike; they
                never are along one run, so read them as lower bounds. Infinite where the data leave a direction open
    at_bound    parameters that ended at a bound: the law has degenerated to a simpler one, or has yet to turn
    """

    law: Law
    steps: Times
    values: Times
    parameters: dict[str, float]
    errors: dict[str, float]
    at_bound: tuple[str, ...]

    def predict(self, steps: Numbers) -> Times:
        """The law at ``steps``."""
        return self.law.value(np.asarray(steps, dtype=float), self.parameters)

    @property
    def residuals(self) -> Times:
        """Values less the law."""
        return self.values - self.predict(self.steps)

    @property
    def rmse(self) -> float:
        """Root mean square of the residuals."""
        return float(np.sqrt(np.mean(self.residuals**2)))

    @property
    def r2(self) -> float:
        """Share of the variance explained: 1 - sum r^2 / sum (y - mean y)^2."""
        return 1 - float((self.residuals**2).sum() / ((self.values - self.values.mean()) ** 2).sum())

    @property
    def aic(self) -> float:
        """Akaike's criterion n log(sum r^2 / n) + 2 p, less is better (Akaike 1974, for normal residuals)."""
        return self._criterion(2.0)

    @property
    def bic(self) -> float:
        """Schwarz's criterion n log(sum r^2 / n) + p log n, less is better."""
        return self._criterion(float(np.log(len(self.steps))))

    def _criterion(self, price: float) -> float:
        n, exact = len(self.steps), np.finfo(float).eps * np.abs(self.values).max()
        return n * float(np.log(max(self.rmse, exact) ** 2)) + price * len(self.law.parameters)


def fit_law(steps: Numbers, values: Numbers, law: str = MODULATED) -> Fit:
    """A row of LAWS fitted to ``values`` at ``steps`` by least squares.

    Time is scaled to 1. A grid over the logarithms of the shape parameters gives starts, the best of which are refined
    by scipy's bounded trust region; at each, amplitude and steady value are those of linear least squares (variable
    projection, Golub and Pereyra 1973), so that five parameters are a search over three.

    Raises Refusal for a law that is none, steps that are negative or not rising, a constant series, and fewer points
    than two more than the law has parameters; NonFiniteError for values that are NaN or infinite.
    """
    if law not in LAWS:
        raise Refusal("fit_law", f"a law of {', '.join(LAWS)}", repr(law), "choose one of them")
    found = LAWS[law]
    t, y = _checked(steps, values, found)
    span = float(t.max())
    bounds = np.log([place[:2] for place in found.places.values()]).T

    @no_type_check  # called thousands of times
    def residuals(log_shape: Float[np.ndarray, " p"]) -> Times:
        return _linear(found, t / span, y, np.exp(log_shape))[0]

    grid = itertools.product(*(np.linspace(low, high, _GRID + 2)[1:-1] for low, high in bounds.T))
    starts = sorted((np.array(start) for start in grid), key=lambda start: float((residuals(start) ** 2).sum()))
    refined = [
        least_squares(residuals, start, bounds=tuple(bounds), jac="3-point", xtol=1e-12, ftol=1e-14, gtol=1e-14)
        for start in starts[:_REFINED]
    ]
    best = min(refined, key=lambda result: result.cost).x
    powers = np.array([place[2] for place in found.places.values()])
    shape = np.exp(best) * span**powers
    _, amplitude, steady = _linear(found, t, y, shape)
    parameters = {"amplitude": amplitude, **dict(zip(found.places, shape.tolist(), strict=True)), "steady": steady}
    near = np.minimum(best - bounds[0], bounds[1] - best) < 0.05
    at_bound = [name for name, bound in zip(found.places, near, strict=True) if bound]
    at_bound += ["steady"] if steady in _reach(found, y) else []
    return Fit(found, t, y, parameters, _errors(found, t, y, parameters), tuple(at_bound))


def _checked(steps: Numbers, values: Numbers, law: Law) -> tuple[Times, Times]:
    t, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    if t.ndim != 1 or t.shape != y.shape:
        raise Refusal("fit_law", "one value a step", f"shapes {t.shape} and {y.shape}", "pass a series of one layer")
    if not (np.isfinite(t).all() and np.isfinite(y).all()):
        raise NonFiniteError("fit_law", "finite steps and values", f"{int((~np.isfinite(y)).sum())} of {len(y)} values "
                             "that are not", "drop those steps, and find out why they are there")  # fmt: skip
    needed = len(law.parameters) + SPARE
    if len(t) < needed:
        wanted = f"{needed} steps or more for the {len(law.parameters)} parameters of {law.name!r}"
        raise Refusal("fit_law", wanted, str(len(t)), "record more often, or fit a simpler law")
    if (t < 0).any() or (np.diff(t) <= 0).any():
        raise Refusal("fit_law", "steps from 0 on, rising", str(t.tolist()), "sort them, and drop repetitions")
    if np.ptp(y) <= 1e-12 * np.abs(y).max():
        raise Refusal("fit_law", "values that change", f"{y[0]:g} throughout", "there is nothing that emerges")
    return t, y


@no_type_check
def _linear(law: Law, t: Times, y: Times, shape: Float[np.ndarray, " p"]) -> tuple[Times, float, float]:
    """Residuals, amplitude and steady value of the best line in the shape."""
    x = law.shape(t, *shape)
    centred, rest = x - x.mean(), y - y.mean()
    size = float(np.abs(centred).max())
    if not size > 1e-14 * max(float(np.abs(x).max()), 1e-290):
        return rest, 0.0, float(y.mean())
    unit = centred / size
    amplitude = float(unit @ rest / (unit @ unit)) / size
    steady = float(y.mean() - amplitude * x.mean())
    low, high = _reach(law, y)
    if not low <= steady <= high:
        steady = min(max(steady, low), high)
        amplitude = float(x @ (y - steady) / (x @ x))
    return y - amplitude * x - steady, amplitude, steady


def _reach(law: Law, y: Times) -> tuple[float, float]:
    """Between which values the steady one may lie."""
    margin = np.inf if law.reach is None else law.reach * float(np.ptp(y))
    return float(y.min()) - margin, float(y.max()) + margin


def _errors(law: Law, t: Times, y: Times, parameters: dict[str, float]) -> dict[str, float]:
    """Standard errors from the Jacobian at the optimum; of positive parameters by way of their logarithms."""
    names, step = law.parameters, 1e-5
    columns = []
    for name in names:
        size = abs(parameters[name]) or 1.0
        up, down = ({**parameters, name: parameters[name] + sign * step * size} for sign in (1, -1))
        columns.append((law.value(t, up) - law.value(t, down)) / (2 * step))
    jacobian = np.stack(columns, axis=1)
    scale = np.linalg.norm(jacobian, axis=0)
    if not (scale > 0).all() or np.linalg.cond(jacobian / scale) > 1e7:
        return dict.fromkeys(names, float("inf"))
    inverse = np.linalg.inv((jacobian / scale).T @ (jacobian / scale))
    residuals = y - law.value(t, parameters)
    variance = float((residuals**2).sum()) / (len(t) - len(names))
    relative = np.sqrt(variance * np.abs(np.diag(inverse))) / scale
    return {name: float(error * (abs(parameters[name]) or 1.0)) for name, error in zip(names, relative, strict=True)}


def compare_laws(steps: Numbers, values: Numbers, laws: Sequence[str] = tuple(LAWS)) -> dict[str, Fit]:
    """Each of ``laws`` fitted to the same series. Raises what `fit_law` raises."""
    return {law: fit_law(steps, values, law) for law in laws}


def held_out_error(
    steps: Numbers,
    values: Numbers,
    held: Numbers,
    law: str = MODULATED,
) -> float:
    """Root mean square error on the points in ``held``, of a law fitted to the others alone, in the unit of values.

    Hold out every third point to ask whether a law interpolates, the last ones to ask whether it foretells. Raises
    Refusal when nothing is held out, and what `fit_law` raises for what is left.
    """
    t, y, held = np.asarray(steps, dtype=float), np.asarray(values, dtype=float), np.asarray(held, dtype=bool)
    if held.shape != t.shape or not held.any():
        raise Refusal("held_out_error", "a mask of the steps with some held out", f"{int(held.sum())} of {t.shape}",
                      "hold out every third")  # fmt: skip
    fit = fit_law(t[~held], y[~held], law)
    return float(np.sqrt(np.mean((y[held] - fit.predict(t[held])) ** 2)))


__all__ = ["SPARE", "Fit", "compare_laws", "fit_law", "held_out_error"]
