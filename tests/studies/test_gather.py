"""From points to one dataset, a table, effects, text and files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from gatescope.errors import Refusal
from gatescope.records import check
from gatescope.studies import Metric, engine, expand
from gatescope.studies import export as exporting
from gatescope.studies.effects import effects
from gatescope.studies.export import export
from gatescope.studies.gather import by_variant, gather, metrics, reduced, table
from gatescope.studies.showing import shown
from test_engine import threads


@pytest.fixture
def measured(store):
    """grid -> its gathered record."""

    def measure(grid):
        engine.run(grid, store, threads())
        return gather(grid, store)

    return measure


def test_all_points_are_one_labelled_record(toy, store, measured):
    grid = expand(toy())
    record = measured(grid)
    check(record)
    assert record.point.values.tolist() == [point.address for point in grid.points]
    assert record.kind.values.tolist() == ["plain", "gated"] * 3
    assert record.seed.values.tolist() == [0, 0, 1, 1, 2, 2]
    assert record.first_attention.dims == ("point", "layer", "head")
    one = store.record(grid.points[3].address)
    np.testing.assert_array_equal(record.sel(point=grid.points[3].address).first_attention, one.first_attention)
    assert record.attrs["missing"] == 0


def test_what_is_missing_or_damaged_is_said_and_left_out(toy, store, measured):
    measured(expand(toy(), only=["seed=0,1"]))
    grid = expand(toy())
    (store.folder / "points" / grid.points[0].address / "record.zarr/zarr.json").write_text("{")
    record = gather(grid, store)
    assert (record.sizes["point"], record.attrs["missing"]) == (3, 3)
    assert record.attrs["damaged"] == [grid.points[0].address]
    with pytest.raises(Refusal, match="finished points"):
        gather(expand(toy(), ["seed=7"]), store)


def test_the_table_has_fields_and_metrics(toy, measured):
    grid = expand(toy())
    frame = table(grid, measured(grid))
    assert list(frame.columns) == ["address", "kind", "rate", "seed", "act", "wait", "seconds", "loss", "first"]
    assert frame["first"].tolist() == pytest.approx([0.9, 0.4] * 3)


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (Metric(name="a", variable="los"), "did you mean 'loss'"),
        (Metric(name="a", variable="loss", over={"layer": "max"}), "dims among"),
        (Metric(name="a", variable="first_attention", over={"layer": "max"}), r"\['head'\] left"),
        (Metric(name="a", variable="first_attention", at={"length": 8}), "dims among"),
        (Metric(name="a", variable="first_attention", at={"layer": 2}), r"layer among \[0, 1\], got 2"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused(toy, measured, metric, said):
    record = measured(expand(toy(), only=["seed=0"]))
    with pytest.raises(Refusal, match=said):
        reduced(metric, record)


@pytest.mark.parametrize(("rule", "place"), [("first", 0), ("last", -1)])
def test_places_and_means_of_a_dimension(toy, measured, rule, place):
    record = measured(expand(toy(), only=["seed=0"]))
    got = reduced(Metric(name="a", variable="first_attention", over={"layer": rule, "head": "mean"}), record)
    np.testing.assert_allclose(got, record.first_attention.values[:, place].mean(-1))


def test_one_place_of_a_dimension_is_taken_by_its_label(toy, store, measured):
    grid = expand(toy(metrics=(Metric(name="a", variable="first_attention", at={"layer": 1}, over={"head": "max"}),)))
    record = measured(grid)
    np.testing.assert_array_equal(table(grid, record)["a"], record.first_attention.values[:, 1].max(-1))
    assert metrics(grid, record)["a"].attrs["long_name"] == "first-token attention, at layer 1, max over head"


def test_a_metric_that_no_point_has_yet_is_said_and_the_rest_is_shown(toy, measured):
    late = Metric(name="late", variable="gate_mean")
    grid = expand(toy(metrics=(late, *toy().metrics)))
    frame = table(grid, measured(grid))
    assert frame["late"].isna().all()
    text = "\n".join(shown(grid, frame))
    assert "no point here has a variable 'gate_mean'" in text
    assert "loss: loss" in text


def test_metrics_are_a_record_by_point_and_by_variant(toy, store, measured):
    measured(expand(toy(), only=["kind=gated"]))
    measured(expand(toy(), only=["seed=0,1"]))
    grid = expand(toy())
    found = metrics(grid, gather(grid, store))
    check(found)
    assert found["first"].attrs["long_name"] == "first-token attention, max over layer, max over head"
    assert found.variant.values.tolist() == ["kind=plain", "kind=gated"] * 2 + ["kind=gated"]
    wide = by_variant(grid, found)
    check(wide)
    assert wide.loss.dims == ("variant", "seed")
    assert wide.variant.values.tolist() == ["kind=plain", "kind=gated"]
    assert np.isnan(wide.loss.sel(variant="kind=plain", seed=2))
    one = store.record(grid.points[1].address)
    assert float(wide.loss.sel(variant="kind=gated", seed=0)) == float(one.loss)


def test_effects_are_paired_and_corrected(toy, measured):
    grid = expand(toy(), ["kind=plain,gated,wide", "seed=0,1,2,3"])
    frame = table(grid, measured(grid))
    plain, gated, wide = effects(grid, frame, grid.study.metrics[0])
    assert (plain.label, plain.verdict, plain.n) == ("kind=plain", "control", 4)
    by = frame.pivot_table(index="seed", columns="kind", values="loss")
    difference = by["gated"] - by["plain"]
    assert gated.mean == pytest.approx(difference.mean())
    assert gated.against == pytest.approx(by["plain"].mean())
    assert gated.low <= gated.mean <= gated.high
    assert gated.corrected == pytest.approx(min(1, 2 * gated.p if gated.p <= wide.p else max(gated.p, 2 * wide.p)))
    assert (gated.verdict, wide.verdict) == ("less", "greater")


def test_two_seeds_give_no_verdict_and_a_lone_variant_no_effect(toy, measured):
    grid = expand(toy(), ["seed=0,1"])
    frame = table(grid, measured(grid))
    assert effects(grid, frame, grid.study.metrics[0])[1].verdict == "no verdict: 2 of 3 seeds"
    alone = expand(toy(), ["kind=gated"])
    (found,) = effects(alone, table(alone, measured(alone)), grid.study.metrics[0])
    assert found.verdict == "no control"


def test_only_replicates_on_both_sides_count(toy, store, measured):
    measured(expand(toy(), only=["kind=plain", "seed=1,2"]))
    measured(expand(toy(), only=["kind=gated"]))
    grid = expand(toy())
    found = effects(grid, table(grid, gather(grid, store)), grid.study.metrics[0])
    assert [(effect.label, effect.n) for effect in found] == [("kind=plain", 2), ("kind=gated", 2)]


def test_two_controls_of_one_variant_are_refused(toy, measured):
    grid = expand(toy(match=()), ["rate=0.5,0.4", "seed=0"])
    frame = table(grid, measured(grid))
    with pytest.raises(Refusal, match="one control a variant"):
        effects(grid, frame, grid.study.metrics[0])


def test_the_text_states_its_terms_and_names_an_outlier(toy, measured):
    grid = expand(toy(), ["seed=0,1,2,3,4,5"])
    frame = table(grid, measured(grid))
    frame["first"] += 0.01 * np.random.default_rng(0).normal(size=12)
    frame.loc[frame.seed == 4, "first"] += [5.0, 0.0]
    text = "\n".join(shown(grid, frame))
    assert "12 of 12 points" in text
    assert "Holm over all comparisons of a metric" in text
    assert "at the same rate, seed" in text
    assert "outliers (1): kind=plain seed=4" in text
    row = next(line for line in text.splitlines() if line.strip().startswith("kind=gated"))
    assert row.split()[-1] == "less"


def test_files_for_others(toy, measured, tmp_path, monkeypatch):
    grid = expand(toy())
    frame = table(grid, measured(grid))
    path = export(frame, tmp_path / "out" / "toy.csv", "csv")
    pd.testing.assert_frame_equal(pd.read_csv(path), frame, check_dtype=False)
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(Refusal, match="pip install pyarrow"):
        export(frame, tmp_path / "toy.parquet", "parquet")
    with pytest.raises(Refusal, match="--to of"):
        export(frame, tmp_path / "toy.xml", "xml")
