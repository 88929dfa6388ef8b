"""Notebooks run headless in processes of their own; whatever goes wrong in one is told with its cell."""

from __future__ import annotations

import json
from argparse import ArgumentParser

import nbformat
import psutil
import pytest
from gatescope.errors import Refusal
from gatescope_lessons import build
from gatescope_lessons import run as runner
from gatescope_lessons.lesson_kit import EDITIONS
from gatescope_lessons.notebook_run import Job, exercise_failure, run_job

pytestmark = pytest.mark.notebooks


@pytest.fixture
def plan(demo, tmp_path):
    """Builds the demo lesson; returns the jobs of a run and its folder."""

    def go(editions=EDITIONS, **options):
        build.write(demo.shelf)
        runs = tmp_path / "runs"
        return runner.plan(demo.shelf, ["l01_demo"], "quick", editions, runs, **options), runs

    return go


@pytest.fixture
def failure(tmp_path):
    """Runs a notebook of these code cells, which fails, and returns what is told."""

    def go(*cells, **limits):
        code = [nbformat.v4.new_code_cell(source) for source in cells]
        path = tmp_path / "01_bad.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Bad"), *code]), path)
        limits = {"cell_limit": 60, "notebook_limit": 120} | limits
        report = run_job(Job("l01_bad", "exercise", path, tmp_path / "run", {}, **limits))
        assert report.failure
        return report.failure

    return go


def test_both_editions_run_and_their_checks_say_what_they_must(demo, plan, monkeypatch, progress):
    monkeypatch.setenv("MPLBACKEND", "agg")
    demo.change(('profile = "quick"', 'profile = "slow"\nspeed = 1'))
    demo.append(
        "import os, pathlib\n"
        "assert os.environ.get('MPLBACKEND') != 'agg'\n"
        "assert (profile, speed) == ('quick', 7)\n"
        "pathlib.Path(os.environ['GATESCOPE_RUN_DIR'], 'note.txt').write_text(guess.value)\n"
        "pathlib.Path('stray.txt').touch()"
    )
    jobs, runs = plan(workers=2, parameters={"speed": 7})
    said = []
    reports = runner.run(jobs, runs, workers=2, say=said.append)
    assert [report.failure for report in reports] == ["", ""]
    assert said[1].startswith("[2/2] l01_demo, ")
    outcomes = {report.job.edition: report.exercises for report in reports}
    assert outcomes == {"exercise": {"double": "not attempted"}, "solution": {"double": "passed"}}
    for edition in EDITIONS:
        folder = runs / "l01_demo" / edition
        assert (folder / "note.txt").read_text() == "5"
        assert (folder / "stray.txt").exists()
        assert "widgets" not in nbformat.read(folder / "01_demo.ipynb", as_version=4).metadata
    assert not progress.exists()
    summary = json.loads((runs / "summary.json").read_text())
    assert [(row["edition"], row["failure"]) for row in summary] == [("exercise", ""), ("solution", "")]


def test_a_crash_is_told_with_cell_first_line_and_traceback(failure):
    told = failure("a = 1", "# why\nbroken = a / 0", "after = 2")
    assert told.startswith("cell 3: PapermillExecutionError\n    # why\n")
    assert "ZeroDivisionError: division by zero" in told
    assert "\x1b" not in told


def test_a_kernel_that_dies_is_told(failure):
    told = failure("a = 1", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "after = 2")
    assert told.startswith("cell 3: DeadKernelError\n    import os, signal")


def test_a_cell_over_its_limit_is_told(failure):
    told = failure("a = 1", "import time\ntime.sleep(600)", cell_limit=1)
    assert told.startswith("cell 3: CellTimeoutError\n    import time")


def test_a_notebook_over_its_limit_is_ended_with_its_kernel(failure, tmp_path):
    note = f"import os, pathlib\npathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))"
    told = failure(note, "import time\ntime.sleep(600)", notebook_limit=10)
    assert told == "cell 3: ended at the limit of 10 s for a notebook\n    import time"
    kernel = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(kernel) or psutil.Process(kernel).status() == psutil.STATUS_ZOMBIE


def test_an_exception_that_an_output_widget_shows_is_a_failure(failure):
    told = failure("import ipywidgets\nout = ipywidgets.Output()\nout", "with out:\n    raise ValueError('hidden')")
    assert told.startswith("an Output widget shows an exception\n")
    assert "ValueError: hidden" in told


@pytest.mark.parametrize(
    ("edition", "outcomes", "told"),
    [
        ("solution", {"double": "passed"}, ""),
        ("exercise", {"double": "not attempted"}, ""),
        *((edition, {"double": "cannot run here"}, "") for edition in EDITIONS),
        ("solution", {"double": "not yet"}, "solution edition must say 'passed'\n  double: not yet"),
        ("exercise", {"double": "passed"}, "exercise edition must say 'not attempted'\n  double: passed"),
        ("solution", {}, "1 cells tagged solution, but only 0 checks ran"),
    ],
)
def test_checks_must_say_what_their_edition_expects(plan, edition, outcomes, told):
    ((job,), _) = plan((edition,))
    failure = exercise_failure(job, outcomes)
    assert told in failure
    assert bool(told) == bool(failure)


def test_an_unknown_parameter_is_refused_before_anything_runs(plan, tmp_path):
    with pytest.raises(Refusal, match="parameters among profile, got speed"):
        plan(parameters={"speed": 7})
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "parsed"), [("a=1", ("a", 1)), ("a=x=y", ("a", "x=y")), ("a=[1, 2]", ("a", [1, 2])), ("a=", ("a", ""))]
)
def test_parameters_are_json_or_text(text, parsed):
    assert runner._parameter(text) == parsed


@pytest.mark.parametrize("text", ["a", "=1", "a b=1"])
def test_a_parameter_without_a_name_is_refused(text):
    with pytest.raises(Refusal, match="NAME=VALUE"):
        runner._parameter(text)


def test_an_unknown_profile_or_edition_is_refused(capsys):
    parser = ArgumentParser()
    runner.COMMAND.configure(parser)
    for words in (["--profile", "slow"], ["--edition", "third"]):
        with pytest.raises(SystemExit):
            parser.parse_args(words)
    assert "invalid choice" in capsys.readouterr().err
