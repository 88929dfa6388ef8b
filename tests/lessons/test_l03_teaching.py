"""Lesson 03's checks name the mistakes people make; its panels compute, also at every end of every control."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr
from gatescope.emergence import fit_law, modulated_logarithm, turning_point
from gatescope.errors import Refusal
from gatescope_lessons.l03_massive_activations import checks, live, panel, runs
from scipy.special import lambertw


def count(h, floor=100.0, times=1000.0, median=None, signed=False):
    a = h if signed else h.abs()
    return ((a > floor) & (a >= times * (h.abs().median() if median is None else median(h)))).sum()


def by_token(h):
    return h.abs().median(dim=1, keepdim=True).values


def aic(r, p, price=2.0):
    return len(r) * np.log(np.mean(r**2)) + price * p


def x_at(lam):
    return math.exp(float(lambertw(1 / lam).real))


def splits(names):
    return [(np.flatnonzero(names != name), np.flatnonzero(names == name)) for name in np.unique(names)]


def random_splits(names):
    part = np.arange(len(names)) % 5
    return [(np.flatnonzero(part != k), np.flatnonzero(part == k)) for k in range(5)]


RIGHT = [
    (checks.massive_count, count),
    (checks.massive_count, lambda h: int(count(h))),
    (checks.turning_point, lambda lam, gamma, t0: turning_point(decay=lam, rate=gamma, offset=t0)),
    (checks.akaike, aic),
    (checks.architecture_splits, splits),
]
WRONG = [
    (checks.massive_count, lambda h: count(h, signed=True), "large negative values count too"),
    (checks.massive_count, lambda h: count(h, times=0.0), "only the magnitude"),
    (checks.massive_count, lambda h: count(h, floor=0.0), "only the ratio"),
    (
        checks.massive_count,
        lambda h: count(h, median=lambda h: h.abs().median(1, keepdim=True).values),
        "token by token",
    ),
    (checks.massive_count, lambda h: count(h, median=lambda h: h.median()), "the median is that of h"),
    (checks.turning_point, lambda lam, gamma, t0: x_at(lam), "this is x where the law turns"),
    (checks.turning_point, lambda lam, gamma, t0: x_at(lam) / gamma, "t0 is missing"),
    (checks.turning_point, lambda lam, gamma, t0: (x_at(lam) + t0) / gamma, "it is subtracted"),
    (checks.turning_point, lambda lam, gamma, t0: (x_at(lam) - t0) * gamma, "divide"),
    (checks.turning_point, lambda lam, gamma, t0: (x_at(1 / lam) - t0) / gamma, "W is taken of lambda"),
    (checks.turning_point, lambda lam, gamma, t0: (math.log(x_at(lam)) - t0) / gamma, "take exp"),
    (checks.akaike, lambda r, p: aic(r, p, 0), "free of charge"),
    (checks.akaike, lambda r, p: aic(r, p, -2), "must cost"),
    (checks.akaike, lambda r, p: aic(r, p, np.log(len(r))), "this is BIC"),
    (checks.akaike, lambda r, p: np.log(np.mean(r**2)) + 2 * p, "n is missing"),
    (checks.akaike, lambda r, p: len(r) * np.log(np.sum(r**2)) + 2 * p, "take their mean"),
    (checks.akaike, lambda r, p: len(r) * np.log(np.sqrt(np.mean(r**2))) + 2 * p, "n log RMSE"),
    (checks.architecture_splits, random_splits, "are on both sides: hold out whole architectures"),
    (checks.architecture_splits, lambda names: splits(names)[1:], "every row is tested once"),
    (checks.architecture_splits, lambda names: [(a[1:], b) for a, b in splits(names)], "leaves rows out"),
    (checks.architecture_splits, lambda names: [(np.r_[a, b], b) for a, b in splits(names)], "both sides of a split"),
    (checks.architecture_splits, lambda names: names, "a list of pairs"),
]


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_right_answers_pass(check, answer, expect_diagnosis) -> None:
    expect_diagnosis(check, answer, None)


@pytest.mark.parametrize(("check", "answer", "said"), WRONG)
def test_mistakes_are_named(check, answer, said: str, expect_diagnosis) -> None:
    expect_diagnosis(check, answer, said)


def test_blanks_are_not_attempts() -> None:
    for check in (checks.massive_count, checks.turning_point, checks.akaike, checks.architecture_splits):
        assert check(lambda *given: ...).status == "not attempted"


STEPS = np.array(runs.recorded_steps(288), dtype=float)
TRUE = {"amplitude": 8.0, "decay": 0.2, "rate": 0.05, "offset": 0.7, "steady": 6.0}


@pytest.fixture
def record() -> xr.Dataset:
    """Two arms, of which one has two layers; layer 0 follows the law."""
    arms = [runs.BASE, "2 layers"]
    values = np.full((2, 1, len(STEPS), 4), np.nan)
    for arm, layers in enumerate((4, 2)):
        for layer in range(layers):
            values[arm, 0, :, layer] = modulated_logarithm(STEPS, **TRUE | {"amplitude": 8.0 + arm + layer})
    values += 0.01 * np.random.default_rng(0).standard_normal(values.shape)
    return xr.Dataset(
        {
            "massive_ratio": (("variant", "seed", "point", "layer"), values),
            "recorded_step": (("variant", "seed", "point"), np.tile(STEPS, (2, 1, 1))),
        },
        coords={"variant": arms, "seed": [0], "layer": range(4)},
    )


def r2(law: panel.LawPanel, column: str = "as set") -> float:
    return float(law.frame().set_index("quantity").loc["R²", column])


def test_sliders_recompute_and_fit_reaches_the_best(record) -> None:
    law = panel.law_panel(record, layer=0)
    before = r2(law)
    law.decay.value = 1.0
    assert r2(law) != before
    law.fit()
    assert law.message == ""
    assert r2(law) == pytest.approx(r2(law, "fit"), abs=1e-9)
    assert r2(law) > 0.999
    assert law.decay.value == pytest.approx(0.2, rel=0.1)
    assert len(law.frame("law_fit")) == len(STEPS)
    law.reset()
    assert r2(law) == before


def test_every_slider_goes_to_both_ends(record) -> None:
    law = panel.law_panel(record, layer=0)
    for name in ("decay", "rate", "offset"):
        control = getattr(law, name)
        for end in (10.0**control.min, 10.0**control.max):
            control.value = end
            assert law.message == "", (name, end)
    for name in ("amplitude", "steady"):
        control = getattr(law, name)
        for end in (control.min, control.max):
            control.value = end
            assert law.message == "", (name, end)
    law.apply(variant="2 layers", layer=1)
    assert law.message == ""
    law.layer.value = 3
    assert "'2 layers' has 2 layers" in law.message
    law.fit_button.click()
    assert "'2 layers' has 2 layers" in law.message
    law.reset()
    assert law.message == ""


def test_a_longer_slider_is_made_where_the_fit_needs_it(record) -> None:
    far = record.assign(massive_ratio=1000 * record.massive_ratio)
    law = panel.law_panel(far, layer=0)
    law.fit_button.click()
    assert law.message == ""
    assert law.amplitude.value > 1000
    assert r2(law) > 0.999


def test_a_law_is_judged_by_hand() -> None:
    values = modulated_logarithm(STEPS, **TRUE)
    best = fit_law(STEPS, values)
    assert live.judged(STEPS, values, TRUE, best)["R²"] == pytest.approx(1.0)
    off = live.judged(STEPS, values, TRUE | {"steady": 7.0}, best)
    assert off["RMSE"] == pytest.approx(1.0)
    assert off["R²"] == pytest.approx(1 - 1 / values.var())
    assert off["turns at step"] == pytest.approx(turning_point(decay=0.2, rate=0.05, offset=0.7))


@pytest.fixture(scope="module")
def number(require) -> panel.NumberPanel:
    require("gguf")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield panel.number_panel(text="dialogue", change="zero it", layer=11)
    torch.set_num_threads(before)


def test_the_number_is_missed_and_only_where_it_is(number) -> None:
    def said(column: str = "now") -> dict:
        return number.frame().set_index("quantity")[column].to_dict()

    zeroed, plain = said(), said("as it is")
    assert zeroed["loss, nats a token"] > plain["loss, nats a token"] + 1
    assert zeroed["largest ratio of all layers"] < 0.5 * plain["largest ratio of all layers"]
    number.change.value = live.CHANGES[2]
    assert number.message == ""
    assert said()["loss, nats a token"] == pytest.approx(plain["loss, nats a token"], abs=0.1)
    number.apply(change="nothing", layer=29)
    assert said() == said("as it is")
    assert len(number.frame("massive_profile")) == 30


def test_an_unknown_change_is_refused(number) -> None:
    with pytest.raises(Refusal, match="changed_number: wanted a change of"):
        live.changed_number("dialogue", "paint it", 11)
