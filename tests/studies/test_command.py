"""`gatescope study` as a person types it."""

from __future__ import annotations

import pytest
from gatescope import cli
from gatescope.studies import command, executors
from gatescope.studies import spec as spec_module
from test_engine import threads
from test_expand import FILE


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Type `gatescope study ACTION own.toml ...` with a store of its own, points run in this process."""
    (tmp_path / "own.toml").write_text(FILE)
    monkeypatch.setattr(executors, "local", lambda jobs: threads(jobs or 1))
    store = ["--store", str(tmp_path / "store")]
    return lambda action, *rest: cli.main(["study", action, str(tmp_path / "own.toml"), *rest, *store])


def test_run_status_show_and_export(study, tmp_path, capsys, started):
    assert study("run", "seed=0,1,2,3,4", "--only", "kind=plain,gated", "--jobs", "2") == 0
    assert "10 measured, 0 crashed, 0 left" in capsys.readouterr().out
    assert study("run", "seed=0,1,2,3,4", "--only", "kind=plain,gated") == 0
    assert len(started()) == 10
    capsys.readouterr()
    assert study("status", "seed=0,1,2,3,4", "rate=0.5,0.8") == 0
    told = capsys.readouterr().out
    assert "10 of 25 points finished" in told
    assert "missing (3)" in told
    assert "kind=gated rate=0.8 (5 seeds)" in told
    assert "impossible (5)" in told
    assert "wanted rate <= 0.5 for kind 'wide', got 0.8" in told
    assert study("show", "seed=0,1,2,3,4", "--metric", "first") == 0
    assert "first: first_attention, max over layer, mean over head" in capsys.readouterr().out
    assert study("export", "seed=0,1,2,3,4", "--to", "csv", "--out", str(tmp_path / "t.csv")) == 0
    assert (tmp_path / "t.csv").read_text().startswith("address,kind,rate,seed")


def test_show_along_an_axis(study, capsys):
    words = ["rate=0.4,0.5", "seed=0,1,2", "--only", "kind=plain,gated"]
    assert study("run", *words) == 0
    capsys.readouterr()
    assert study("show", *words, "--along", "rate") == 0
    told = capsys.readouterr().out
    assert "first: first_attention" not in told
    assert "slope of log metric over log rate" in told
    assert study("show", *words, "--along", "rates") == 2
    assert "did you mean 'rate'?" in capsys.readouterr().err


def test_show_how_far_an_axis_is_borne(study, capsys):
    words = ["rate=0.4,0.5", "seed=0,1,2", "--only", "kind=plain,gated"]
    assert study("run", *words) == 0
    capsys.readouterr()
    assert study("show", *words, "--borne", "rate") == 0
    told = capsys.readouterr().out
    assert "largest rate whose metric is at most 0.1 worse" in told
    row = next(line for line in told.splitlines() if line.strip().startswith("kind=plain"))
    assert ">= 0.5, >= 0.5, >= 0.5" in row


def test_crashes_end_with_one_and_status_shows_why(study, capsys):
    assert study("run", "act=raise", "seed=0", "--only", "kind=plain") == 1
    assert "1 crashed" in capsys.readouterr().out
    study("status", "act=raise", "seed=0")
    told = capsys.readouterr().out
    assert "crashed (1)" in told
    assert "ZeroDivisionError: seed 0 divides by zero" in told
    assert "toy_points.py" in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "sed=0"], "did you mean 'seed'"),
        (["show", "--metric", "frist"], "did you mean 'first'"),
        (["show"], "wanted finished points, got none of 7"),
    ],
)
def test_refusals_are_one_line(study, capsys, words, said):
    assert study(*words) == 2
    assert said in capsys.readouterr().err


def test_a_store_that_cannot_be_is_refused(study, tmp_path, capsys):
    (tmp_path / "store").write_text("a file where the folder should be")
    assert study("run") == 2
    assert "choose another --store" in capsys.readouterr().err


def test_the_list_names_every_study(capsys):
    assert cli.main(["study", "list"]) == 0
    told = capsys.readouterr().out
    assert all(f"{name}: " in told for name in spec_module.names())
    assert command.COMMAND.help.startswith("measure a claim over a grid")
