"""Fits find the law that made the data, beat what lacks its modulation, and refuse what cannot be fitted."""

from __future__ import annotations

import numpy as np
import pytest
from gatescope.emergence import LAWS, compare_laws, fit_law, held_out_error, modulated_logarithm
from gatescope.errors import NonFiniteError, Refusal
from scipy.optimize import curve_fit

STEPS = np.concatenate([[0.0], np.unique(np.round(np.geomspace(1, 3000, 30)))])
TRUE = {"amplitude": 20.0, "decay": 0.05, "rate": 0.05, "offset": 0.7, "steady": 15.0}


def series(noise: float, seed: int = 0, **changes: float) -> np.ndarray:
    clean = modulated_logarithm(STEPS, **TRUE | changes)
    return clean + noise * np.random.default_rng(seed).standard_normal(len(STEPS))


def test_without_noise_all_five_parameters_come_back() -> None:
    fit = fit_law(STEPS, series(0.0))
    assert fit.parameters == pytest.approx(TRUE, rel=1e-5)
    assert fit.r2 == pytest.approx(1.0)
    assert fit.at_bound == ()


def test_standard_errors_are_the_spread_over_repeated_noise() -> None:
    fits = [fit_law(STEPS, series(0.2, seed)) for seed in range(24)]
    for name, true in TRUE.items():
        values = np.array([fit.parameters[name] for fit in fits])
        said = np.mean([fit.errors[name] for fit in fits])
        assert abs(values.mean() - true) < 4 * said
        assert 0.6 < values.std(ddof=1) / said < 1.6


def test_it_is_where_scipy_ends_on_all_five_parameters_at_once() -> None:
    """An independent reference: curve_fit on the equation as printed, started at the truth, without our projection."""
    y = series(0.3, seed=5)

    def law(t, a, lam, gamma, t0, k):
        return a * np.exp(-lam * (gamma * t + t0)) * np.log(gamma * t + t0) + k

    theirs, covariance = curve_fit(law, STEPS, y, p0=list(TRUE.values()), maxfev=20_000)
    ours = fit_law(STEPS, y)
    np.testing.assert_allclose(list(ours.parameters.values()), theirs, rtol=1e-3)
    np.testing.assert_allclose(list(ours.errors.values()), np.sqrt(np.diag(covariance)), rtol=0.02)


@pytest.mark.parametrize("law", [law for law in LAWS if law != "modulated logarithm"])
def test_a_peak_is_beyond_every_other_law(law: str) -> None:
    """The plain logarithm is the ablation, the step responses are the paper's rivals."""
    y = series(0.3, seed=1)
    found = compare_laws(STEPS, y, ("modulated logarithm", law))
    assert found["modulated logarithm"].r2 > 0.99
    assert found[law].r2 < 0.9
    assert found["modulated logarithm"].aic < found[law].aic - 20
    assert found["modulated logarithm"].bic < found[law].bic - 20


def test_a_plain_logarithm_is_preferred_where_it_made_the_data() -> None:
    rng = np.random.default_rng(3)
    y = 10 + 5 * np.log(STEPS + 20) + 0.2 * rng.standard_normal(len(STEPS))
    found = compare_laws(STEPS, y, ("modulated logarithm", "logarithm"))
    assert found["logarithm"].bic < found["modulated logarithm"].bic
    assert found["modulated logarithm"].r2 >= found["logarithm"].r2 - 1e-6
    assert found["logarithm"].parameters["delay"] == pytest.approx(20, abs=3)
    spread = {name: fit.errors["steady"] for name, fit in found.items()}
    assert spread["modulated logarithm"] > 10 * spread["logarithm"]


@pytest.mark.parametrize(
    ("law", "made"),
    [
        ("power", lambda t: 3 + 0.2 * (t + 15) ** 0.6),
        ("logistic", lambda t: 5 + 9 / (1 + np.exp(-(t - 900) / 150))),
        ("first order", lambda t: 2 + 7 * (1 - np.exp(-0.004 * t))),
        ("second order", lambda t: LAWS["second order"].value(
            t, {"amplitude": 6.0, "damping": 0.3, "frequency": 0.01, "steady": 1.0})),
    ],
)  # fmt: skip
def test_every_law_fits_what_it_made(law: str, made) -> None:
    assert fit_law(STEPS, made(STEPS), law).r2 > 0.99999


def test_held_out_points_are_foretold_by_the_law_and_not_by_its_ablation() -> None:
    y, late = series(0.1, seed=2), STEPS > 1000
    errors = {law: held_out_error(STEPS, y, late, law) for law in ("modulated logarithm", "logarithm")}
    assert errors["modulated logarithm"] < 0.5
    assert errors["logarithm"] > 10 * errors["modulated logarithm"]
    every_third = np.arange(len(STEPS)) % 3 == 1
    assert held_out_error(STEPS, y, every_third) < 0.3
    with pytest.raises(Refusal, match="some held out"):
        held_out_error(STEPS, y, np.zeros(len(STEPS), dtype=bool))


def test_units_of_time_and_value_do_not_matter() -> None:
    y = series(0.2, seed=4)
    plain, scaled = fit_law(STEPS, y), fit_law(1000 * STEPS, 7 * y)
    assert scaled.parameters["rate"] == pytest.approx(plain.parameters["rate"] / 1000, rel=1e-3)
    assert scaled.parameters["amplitude"] == pytest.approx(7 * plain.parameters["amplitude"], rel=1e-3)
    assert scaled.r2 == pytest.approx(plain.r2)


@pytest.mark.parametrize(
    ("steps", "values", "said"),
    [
        (range(4), [1.0, 2.0, 3.0, 2.0], "wanted 7 steps or more for the 5 parameters"),
        (range(10), [3.0] * 10, "wanted values that change, got 3 throughout"),
        (range(10), range(9), "one value a step"),
        ([3, 2, 1, 4, 5, 6, 7, 8], range(8), "steps from 0 on, rising"),
        ([-1, 2, 3, 4, 5, 6, 7, 8], range(8), "steps from 0 on, rising"),
    ],
)
def test_what_cannot_be_fitted_is_refused_by_name(steps, values, said: str) -> None:
    with pytest.raises(Refusal, match=f"fit_law: .*{said}"):
        fit_law(list(steps), list(values))


def test_nan_and_unknown_laws_are_refused_by_name() -> None:
    y = series(0.1)
    y[3] = np.nan
    with pytest.raises(NonFiniteError, match="1 of 29 values that are not"):
        fit_law(STEPS, y)
    with pytest.raises(Refusal, match="a law of modulated logarithm"):
        fit_law(STEPS, series(0.1), "spline")
