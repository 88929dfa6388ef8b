"""The law of emergence against its calculus, and the other laws against their limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from gatescope.emergence import LAWS, MODULATED, modulated_logarithm, turning_point
from gatescope.errors import Refusal
from scipy.optimize import minimize_scalar

STEPS = np.concatenate([[0.0], np.geomspace(1, 3000, 40)])
CASES = [(20.0, 0.05, 0.05, 0.7, 15.0), (-8.0, 0.3, 0.01, 1.5, 40.0), (3.0, 2.0, 0.02, 0.05, 0.0)]
NAMES = ("amplitude", "decay", "rate", "offset", "steady")


@pytest.mark.parametrize("values", CASES)
def test_it_turns_where_its_formula_says(values: tuple[float, ...]) -> None:
    """Against a numerical search for the extremum, which knows nothing of Lambert's function."""
    law = dict(zip(NAMES, values, strict=True))
    found = turning_point(**{name: law[name] for name in ("decay", "rate", "offset")})
    sign = -np.sign(law["amplitude"])
    searched = minimize_scalar(
        lambda t: sign * float(modulated_logarithm(np.array([t]), **law)[0]), bounds=(0, 5000), options={"xatol": 1e-8}
    )
    assert found == pytest.approx(searched.x, rel=1e-4)


@pytest.mark.parametrize("values", CASES)
def test_it_ends_at_its_steady_value_and_the_plain_logarithm_does_not(values: tuple[float, ...]) -> None:
    law = dict(zip(NAMES, values, strict=True))
    far = np.array([1e7])
    assert modulated_logarithm(far, **law) == pytest.approx(law["steady"], abs=1e-9)
    ablated = modulated_logarithm(far, **law | {"decay": 0.0})
    assert abs(float(ablated[0]) - law["steady"]) > 5 * abs(law["amplitude"])


def test_a_strong_decay_turns_before_training_and_none_never() -> None:
    assert turning_point(decay=0.0, rate=0.1, offset=1.0) == math.inf
    assert turning_point(decay=5.0, rate=0.1, offset=2.0) < 0
    assert turning_point(decay=1e-300, rate=1.0, offset=0.0) > 1e290
    falling = modulated_logarithm(STEPS, amplitude=1.0, decay=5.0, rate=0.1, offset=2.0, steady=0.0)
    assert (np.diff(falling) <= 0).all()


@pytest.mark.parametrize("law", [{"decay": -1.0}, {"offset": 0.0}, {"rate": -1.0}])
def test_what_has_no_logarithm_is_refused(law: dict) -> None:
    with pytest.raises(Refusal, match="modulated_logarithm: wanted decay >= 0"):
        modulated_logarithm(STEPS, **dict(zip(NAMES, CASES[0], strict=True)) | law)
    with pytest.raises(Refusal, match="turning_point"):
        turning_point(decay=-1.0, rate=1.0, offset=1.0)


def test_the_law_in_the_table_is_the_function() -> None:
    law = dict(zip(NAMES, CASES[0], strict=True))
    np.testing.assert_allclose(LAWS[MODULATED].value(STEPS, law), modulated_logarithm(STEPS, **law), rtol=1e-14)
    assert LAWS[MODULATED].parameters == NAMES


@pytest.mark.parametrize("damping", [0.2, 0.999999999, 1.0, 3.0])
def test_the_second_order_response_solves_its_equation(damping: float) -> None:
    """y'' + 2 z w y' + w^2 (y - 1) = 0 from rest, by finite differences."""
    w, h = 0.02, 0.05
    t = np.arange(0, 300, h)
    y = LAWS["second order"].shape(t, damping, w)
    first, second = np.gradient(y, h), np.gradient(np.gradient(y, h), h)
    inside = slice(5, -5)
    np.testing.assert_allclose(second[inside], (-2 * damping * w * first - w**2 * (y - 1))[inside], atol=2e-7)
    assert y[0] == pytest.approx(0, abs=1e-9)
