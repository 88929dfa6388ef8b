"""A finished study as a record in data/: whole or refused, read back as the grid it was."""

from __future__ import annotations

import numpy as np
import pytest
from gatescope import data, paths
from gatescope.errors import Refusal
from gatescope.panels.studying import StudyPanel
from gatescope.studies import engine, expand, keeping
from gatescope.studies.effects import effects
from gatescope.studies.gather import gather, table
from test_engine import threads


@pytest.fixture
def folder(tmp_path, monkeypatch):
    found = tmp_path / "data"
    found.mkdir()
    for module in (paths, data, keeping):
        monkeypatch.setattr(module, "data_dir", lambda: found)
    return found


@pytest.fixture
def grid(toy):
    return expand(toy(), ["kind=plain,gated", "rate=0.5,0.4"])


def test_a_kept_study_has_every_metric_of_every_point_and_its_row(grid, store, folder):
    engine.run(grid, store, threads())
    path = keeping.keep(grid, store)
    assert path == folder / "measured" / "studies" / "toy.nc"
    assert data.rows()["measured/studies/toy.nc"].made_by.endswith("gatescope study keep toy")
    record = keeping.kept("toy")
    assert record.point.values.tolist() == [point.address for point in grid.points]
    assert (record.study, record.crashed, record.code_version) == ("toy", [], grid.versions.code)
    assert {"kind", "rate", "seed", "variant"} <= set(record.coords)
    again = keeping.keep(grid, store).read_bytes()
    assert again == path.read_bytes()


def test_effects_of_a_kept_study_are_those_of_its_store(grid, store, folder):
    engine.run(grid, store, threads())
    keeping.keep(grid, store)
    record = keeping.kept("toy")
    old = keeping.kept_grid(grid.study, record)
    (metric,) = (one for one in grid.study.metrics if one.name == "loss")
    kept = effects(old, keeping.kept_table(record), metric)
    stored = effects(grid, table(grid, gather(grid, store)), metric)
    assert [(one.label, one.verdict) for one in kept] == [(one.label, one.verdict) for one in stored]
    np.testing.assert_allclose([one.value for one in kept], [one.value for one in stored])


def test_a_panel_over_a_kept_study_has_no_store_to_read(grid, store, folder):
    engine.run(grid, store, threads())
    keeping.keep(grid, store)
    record = keeping.kept("toy")
    panel = StudyPanel(keeping.kept_grid(grid.study, record), record)
    assert panel.message == ""
    assert len(panel.frame("parallel_points")) == len(grid.points)
    assert panel.again not in list(panel.widget.children[-1].children)


def test_a_study_with_missing_points_is_refused(grid, store, folder):
    engine.run(expand(grid.study, ["kind=plain", "rate=0.5"]), store, threads())
    with pytest.raises(Refusal, match=r"9 of 12 missing.*gatescope study run toy"):
        keeping.keep(grid, store)
    assert not (folder / "measured").exists()


def test_a_crashed_point_is_named_and_the_rest_kept(toy, store, folder):
    grid = expand(toy(), ["kind=plain,gated", "act=measure,raise"])
    engine.run(grid, store, threads())
    keeping.keep(grid, store)
    record = keeping.kept("toy")
    assert record.sizes["point"] == 6
    assert len(record.crashed) == 6
    assert all("act=raise" in label for label in record.crashed)
