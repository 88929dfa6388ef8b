"""study: what is in a store, over axes and seeds, read again on request."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from gatescope import panels
from gatescope.errors import Refusal
from gatescope.panels.studying import StudyPanel
from gatescope.studies import Store, expand

sys.path.insert(0, str(Path(__file__).parents[1] / "studies"))


@pytest.fixture
def grid():
    from toy_study import TOY

    return expand(TOY, ["kind=plain,gated,wide", "rate=0.5,0.4", "seed=0,1,2"])


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def fill(grid, store, count):
    import toy_points

    for point in grid.points[:count]:
        store.put(point, toy_points.measure(toy_points.Toy(**point.config)), {"seconds": 1.0})


@pytest.fixture
def panel(grid, store):
    fill(grid, store, 12)
    return StudyPanel(grid, store)


def test_it_draws_points_variants_and_effects(panel):
    assert panel.message == ""
    lines = panel.frame("parallel_points")
    assert list(lines.columns) == ["kind", "rate", "loss"]
    assert len(lines) == 12
    strip = panel.frame("variant_strip").drop_duplicates("variant")
    assert len(strip) == 6
    effects = panel.frame("effects").set_index("label")
    assert effects.loc["kind=plain", "verdict"] == "control"
    assert effects.loc["kind=gated", "verdict"] == "no verdict: 2 of 3 seeds"
    assert effects.loc["kind=gated", "mean"] == pytest.approx(-0.5, abs=0.05)


def test_every_setting_can_be_drawn(panel):
    for metric in panel.metric.options:
        for where in panel.where.options:
            panel.apply(metric=metric, where=where)
            assert panel.message == "" or "varies" in panel.message
    panel.apply(metric="first", where="rate = 0.4")
    assert set(panel.frame("effects")["label"]) == {f"kind={kind} rate=0.4" for kind in ("plain", "gated", "wide")}
    panel.reset()
    assert len(panel.frame("variant_strip")["variant"].unique()) == 6


def test_it_reads_a_running_study_again(panel, grid, store):
    fill(grid, store, 18)
    panel.again.click()
    assert len(panel.frame("parallel_points")) == 18
    assert panel.frame("effects").set_index("label").loc["kind=gated", "verdict"] == "less"


def test_an_empty_store_is_refused(tmp_path):
    with pytest.raises(Refusal, match="finished points"):
        panels.study("gate-atlas", store=tmp_path)
