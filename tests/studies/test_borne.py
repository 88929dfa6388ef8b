"""How far along an axis a variant does about as well as at its best."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from gatescope.errors import Refusal
from gatescope.studies import expand
from gatescope.studies.borne import MARGIN, borne, largest_borne

NAN = math.nan


@pytest.mark.parametrize(
    ("curve", "wanted"),
    [
        ({1.0: 2.0, 4.0: 2.0 + MARGIN / 2, 16.0: 2.0 + MARGIN / 2}, 16.0),  # borne up to the end
        ({1.0: 2.0, 4.0: 2.0, 16.0: 2.0 + 2 * MARGIN}, 8.0),  # half-way over log x
        ({1.0: 2.0, 4.0: 2.0, 16.0: NAN}, 4.0),  # towards a run that diverged there is no line
        ({1.0: 2.0, 4.0: NAN, 16.0: 2.0}, 16.0),  # the last that is borne, whatever lies before
        ({16.0: 9.0, 1.0: 3.0, 4.0: 2.0}, 4.0 * 4 ** (MARGIN / 7)),  # in any order; below the best does not count
        ({1.0: NAN, 4.0: NAN}, NAN),
    ],
)
def test_the_largest_value_within_the_margin(curve, wanted):
    assert largest_borne(curve) == pytest.approx(wanted, nan_ok=True)


@pytest.fixture
def rates(toy):
    """A study over rates, and its table: "gated" bears a rate four times as large."""
    grid = expand(toy(), ["rate=0.1,0.4,1.6"])
    steep = {"plain": {0.1: 2.0, 0.4: 2.0 + 2 * MARGIN, 1.6: 5.0}, "gated": {0.1: 2.5, 0.4: 2.5, 1.6: 2.5 + 2 * MARGIN}}
    rows = [(p.address, steep[p.config["kind"]][p.config["rate"]] + 0.001 * p.config["seed"]) for p in grid.points]
    return grid, pd.DataFrame(rows, columns=["address", "loss"])


def test_variants_are_compared_in_doublings(rates):
    grid, frame = rates
    plain, gated = borne(grid, frame, grid.study.metrics[0], "rate")
    assert plain.effect.verdict == "control"
    assert plain.largest == pytest.approx({seed: 0.2 for seed in (0, 1, 2)})
    assert gated.largest == pytest.approx({seed: 0.8 for seed in (0, 1, 2)})
    assert gated.effect.mean == pytest.approx(2.0)
    assert (plain.at_end, gated.at_end) == ((), ())


def test_a_variant_that_bears_the_last_value_is_told(rates):
    grid, frame = rates
    frame.loc[[p.config["kind"] == "gated" for p in grid.points], "loss"] = 2.5
    assert borne(grid, frame, grid.study.metrics[0], "rate")[1].at_end == (0, 1, 2)


def test_where_more_is_better_it_falls(toy):
    grid = expand(toy(), ["rate=0.1,0.4", "kind=plain"])
    fallen = [0.9 if point.config["rate"] == 0.1 else 0.9 - 2 * MARGIN for point in grid.points]
    frame = pd.DataFrame({"address": [point.address for point in grid.points], "loss": fallen})
    metric = grid.study.metrics[0]
    better = type(metric)(name="loss", variable="loss", better="greater")
    assert borne(grid, frame, better, "rate")[0].largest == pytest.approx({seed: 0.2 for seed in (0, 1, 2)})


@pytest.mark.parametrize(
    ("overrides", "axis", "said"),
    [
        ([], "rat", "did you mean 'rate'"),
        ([], "kind", "tells what with what"),
        ([], "seed", "tells what with what"),
        ([], "act", "numbers above 0"),
        (["rate=0.0,0.5"], "rate", "numbers above 0"),
    ],
)
def test_an_axis_that_is_none_is_refused(toy, overrides, axis, said):
    grid = expand(toy(), overrides)
    frame = pd.DataFrame({"address": [point.address for point in grid.points], "loss": 1.0})
    with pytest.raises(Refusal, match=said):
        borne(grid, frame, grid.study.metrics[0], axis)


def test_other_values_for_some_variants_are_refused(toy):
    grid = expand(
        toy(grids=({"kind": ("plain",), "rate": (0.1, 0.5), "seed": (0,)}, {"kind": ("gated",), "seed": (0,)}))
    )
    frame = pd.DataFrame({"address": [point.address for point in grid.points], "loss": 1.0})
    with pytest.raises(Refusal, match="the same values of 'rate'"):
        borne(grid, frame, grid.study.metrics[0], "rate")
