"""Exponents along an axis: planted powers come out, holes are left out, and what is no axis of sizes is refused."""

from __future__ import annotations

import pandas as pd
import pytest
from gatescope.errors import Refusal
from gatescope.studies import expand
from gatescope.studies.showing import shown_along
from gatescope.studies.slopes import slopes

RATES = (0.1, 0.2, 0.4)
#: Kind -> the power of rate that its loss follows; every seed adds a hundredth to it.
POWERS = {"plain": -0.5, "gated": -0.25}


@pytest.fixture
def grid(toy):
    return expand(toy(), ["rate=0.1,0.2,0.4", "seed=0,1,2"])


@pytest.fixture
def frame(grid):
    def row(point):
        kind, rate, seed = (point.config[name] for name in ("kind", "rate", "seed"))
        return {"address": point.address, "loss": (3 + seed) * rate ** (POWERS[kind] + 0.01 * seed), "first": 0.0}

    return pd.DataFrame([row(point) for point in grid.points])


def metric(grid, name="loss"):
    return next(one for one in grid.study.metrics if one.name == name)


def test_planted_powers_come_out_seed_by_seed(grid, frame):
    found = {slope.effect.config["kind"]: slope for slope in slopes(grid, frame, metric(grid), "rate")}
    for kind, power in POWERS.items():
        own = found[kind]
        assert own.values == pytest.approx({seed: power + 0.01 * seed for seed in range(3)})
        assert own.own.mean == pytest.approx(power + 0.01)
        assert own.own.low < own.own.mean < own.own.high
        assert own.verdict == "less"
        assert "rate" not in own.effect.config
    assert found["plain"].effect.verdict == "control"
    assert found["gated"].effect.mean == pytest.approx(0.25)
    assert found["gated"].effect.verdict == "greater"


def test_a_seed_with_a_hole_or_a_zero_is_left_out(grid, frame):
    address = {(p.config["kind"], p.config["rate"], p.config["seed"]): p.address for p in grid.points}
    holed = frame[frame["address"] != address["plain", 0.2, 0]].copy()
    holed.loc[holed["address"] == address["plain", 0.4, 1], "loss"] = 0.0
    plain, gated = slopes(grid, holed, metric(grid), "rate")
    assert set(plain.values) == {2}
    assert plain.verdict == "no verdict: 1 of 3 seeds"
    assert (gated.own.n, gated.effect.n) == (3, 1)


def test_a_point_that_the_grid_has_lost_is_a_hole(grid, frame):
    from dataclasses import replace

    smaller = replace(grid, points=grid.points[1:])
    first = grid.points[0].config
    found = {slope.effect.config["kind"]: slope for slope in slopes(smaller, frame, metric(grid), "rate")}
    assert set(found[first["kind"]].values) == {0, 1, 2} - {first["seed"]}


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ("seed", "an axis of what is compared"),
        ("kind", "an axis of what is compared"),
        ("rat", "did you mean 'rate'"),
        ("act", "numbers above 0 on 'act'"),
        ("wait", "numbers above 0 on 'wait'"),
    ],
)
def test_what_is_no_axis_of_sizes_is_refused(grid, frame, axis, said):
    with pytest.raises(Refusal, match=said):
        slopes(grid, frame, metric(grid), axis)


def test_an_axis_of_one_value_is_refused(toy, frame):
    narrow = expand(toy(), ["rate=0.1", "seed=0,1,2"])
    with pytest.raises(Refusal, match="two values of 'rate' or more"):
        slopes(narrow, frame, metric(narrow), "rate")


def test_they_are_shown_as_a_table_and_where_there_is_none_it_says_so(grid, frame):
    told = "\n".join(shown_along(grid, frame, "rate"))
    assert "slope of log metric over log rate" in told
    assert "kind=gated  3  -0.24" in told
    assert "+0.25" in told
    assert "a value is 0 or missing in every variant" in told
