"""Laws of emergence: what a quantity may look like as a function of the training step.

Every law is an amplitude times a shape plus a level, y(t) = amplitude * shape(t) + steady. The shape has one to three
parameters, all positive; only they need a search, the other two are linear.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Float
from scipy.special import lambertw

from gatescope.errors import Refusal

Times = Float[np.ndarray, " n"]


def modulated_logarithm(
    t: Times, *, amplitude: float, decay: float, rate: float, offset: float, steady: float
) -> Times:
    """The exponentially modulated logarithm, in the unit of ``amplitude`` and ``steady``.

        f(t) = A exp(-lambda x) log(x) + K,   x = gamma t + t0      (Gallego-Feliciano et al. 2025, eq. 9)

    amplitude A, decay lambda >= 0, rate gamma > 0 (1 / steps), offset t0 > 0, steady K. With decay 0 it is a plain
    logarithm. Raises Refusal where x is not above 0 and for a negative decay.
    """
    x = rate * np.asarray(t, dtype=float) + offset
    if decay < 0 or not (x > 0).all():
        got = f"decay {decay:g}, smallest rate * t + offset {float(x.min()):g}"
        raise Refusal("modulated_logarithm", "decay >= 0 and rate * t + offset > 0", got, "a logarithm needs it")
    return amplitude * _modulated(np.asarray(t, dtype=float), decay, rate, offset) + steady


def turning_point(*, decay: float, rate: float, offset: float) -> float:
    """The step at which the law turns: a maximum for a positive amplitude, a minimum for a negative one.

        t* = (exp(W(1 / lambda)) - t0) / gamma      (eq. 13; W is Lambert's function)

    Infinite without decay. A negative one lies before training: then the law only goes towards its steady value.
    Raises Refusal for a negative decay and a rate that is not positive.
    """
    if decay < 0 or rate <= 0:
        raise Refusal("turning_point", "decay >= 0 and rate > 0", f"{decay=:g}, {rate=:g}", "fit the law first")
    if decay == 0:
        return math.inf
    return (math.exp(float(lambertw(1 / decay).real)) - offset) / rate


@dataclass(frozen=True, slots=True)
class Law:
    """A row of LAWS.

    equation  y(t), in the names of the parameters
    shape     the part that is not linear, of t and the parameters in ``places``
    places    name of a shape parameter -> (lowest, highest, power): bounds in time that runs from 0 to 1, and the power
              of the time unit that it scales with (1 a time, -1 a rate, 0 a pure number)
    source    where it was proposed or compared
    reach     how far the steady value may lie outside the values fitted, in units of their range; None: anywhere. A law
              that has not yet turned says little of where it will settle, and without a bound it says anything
    """

    name: str
    equation: str
    shape: Callable[..., Times]
    places: dict[str, tuple[float, float, int]]
    source: str
    reach: float | None = None

    @property
    def parameters(self) -> tuple[str, ...]:
        """All of them: amplitude, those of the shape, steady."""
        return ("amplitude", *self.places, "steady")

    def value(self, t: Times, parameters: dict[str, float]) -> Times:
        """y(t)."""
        shape = self.shape(np.asarray(t, dtype=float), *(parameters[name] for name in self.places))
        return parameters["amplitude"] * shape + parameters["steady"]


# A fit calls what follows thousands of times; checked at every call, the tests would take minutes.
@no_type_check
def _modulated(t: Times, decay: float, rate: float, offset: float) -> Times:
    x = rate * t + offset
    return np.exp(-decay * x) * np.log(x)


@no_type_check
def _second_order(t: Times, damping: float, frequency: float) -> Times:
    """Step response 1 - exp(-z w t) (cosh(r w t) + z sinh(r w t) / r), r^2 = z^2 - 1, in exponentials that decay."""
    root = np.sqrt(complex(damping**2 - 1))
    if abs(root) < 1e-6:
        return 1 - np.exp(-frequency * t) * (1 + frequency * t)
    slow, fast = (np.exp((sign * root - damping) * frequency * t) for sign in (1, -1))
    return np.real(1 - (slow + fast + damping / root * (slow - fast)) / 2)


_HIDDEN = "Gallego-Feliciano et al. 2025 (arXiv 2508.03616)"
_TABLE = (
    Law(
        "modulated logarithm",
        "amplitude exp(-decay x) log x + steady, x = rate t + offset",
        _modulated,
        {"decay": (1e-9, 30.0, 0), "rate": (1e-3, 1e7, -1), "offset": (1e-6, 20.0, 0)},
        f"{_HIDDEN}, eq. 9",
        reach=1.0,
    ),
    Law(
        "logarithm",
        "amplitude log(t + delay) + steady",
        lambda t, delay: np.log(t + delay),
        {"delay": (1e-7, 1e3, 1)},
        f"{_HIDDEN}, eq. 9 without decay",
    ),
    Law(
        "power",
        "amplitude (t + delay)^exponent + steady",
        lambda t, delay, exponent: (t + delay) ** exponent,
        {"delay": (1e-7, 10.0, 1), "exponent": (0.02, 5.0, 0)},
        "the usual law of scaling",
    ),
    Law(
        "logistic",
        "amplitude / (1 + exp(-(t - middle) / width)) + steady",
        lambda t, middle, width: 1 / (1 + np.exp(-np.clip((t - middle) / width, -700, 700))),
        {"middle": (1e-4, 2.0, 1), "width": (1e-4, 2.0, 1)},
        "a switch between two levels",
    ),
    Law(
        "first order",
        "amplitude (1 - exp(-rate t)) + steady",
        lambda t, rate: -np.expm1(-rate * t),
        {"rate": (1e-3, 1e6, -1)},
        f"{_HIDDEN}, eq. 15, with a level of its own",
    ),
    Law(
        "second order",
        "amplitude (step response of damping, frequency) + steady",
        _second_order,
        {"damping": (0.02, 50.0, 0), "frequency": (1e-2, 1e5, -1)},
        f"{_HIDDEN}, eqs. 16 to 18, with a level of its own",
    ),
)
#: name -> Law.
LAWS: dict[str, Law] = {law.name: law for law in _TABLE}
#: The law this room is about.
MODULATED = _TABLE[0].name
