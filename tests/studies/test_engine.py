"""Runs: what crashes is isolated, what is finished is never measured again, what is left is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from gatescope.errors import DataError, Refusal
from gatescope.studies import Store, engine, expand
from gatescope.studies.engine import duration, run
from gatescope.studies.executors import Place, local
from gatescope.studies.worker import Task, run_point


def threads(slots: int = 2, **parts: object) -> Place:
    """An executor of this process: quick, and any executor will do."""
    held = {"open": lambda: ThreadPoolExecutor(slots), "slots": lambda executor: slots}
    return Place("threads", **{**held, "alive": lambda executor: True, "stop": lambda executor: None, **parts})


def test_every_point_is_measured_once_and_never_again(toy, store, started):
    grid, lines = expand(toy()), []
    summary = run(grid, store, threads(), say=lines.append)
    assert sorted(summary.measured) == sorted(point.address for point in grid.points) == sorted(store.finished())
    assert (summary.left, summary.crashed, summary.stopped) == (0, [], "")
    assert len(started()) == 6
    assert lines[0] == "6 points: 0 finished, 6 to measure"
    assert lines[-1].startswith("[6/6] kind=gated seed=2: ")
    assert "left, about" in lines[1]
    again = run(grid, store, threads())
    assert (again.measured, len(started())) == ([], 6)


def test_a_point_that_raises_is_kept_with_its_traceback_and_the_rest_goes_on(toy, store, started):
    grid = expand(toy(), ["act=measure,raise", "kind=plain", "seed=0,1"])
    lines: list[str] = []
    summary = run(grid, store, threads(), say=lines.append)
    assert (len(summary.measured), len(summary.crashed), summary.left) == (2, 2, 2)
    errors = [held["error"] for held in store.failures().values()]
    assert all("Traceback" in error and "toy_points.py" in error for error in errors)
    assert any("CRASHED: ZeroDivisionError: seed 1 divides by zero" in line for line in lines)
    run(grid, store, threads(), say=lines.append)
    assert len(started()) == 4
    assert "2 crashed before (--retry measures them again)" in lines[-1]
    run(grid, store, threads(), retry=True)
    assert len(started()) == 6


@pytest.mark.parametrize(
    ("act", "said"), [("number", r"a record \(xarray Dataset\), got int"), ("text", "numbers and booleans")]
)
def test_what_is_no_record_is_a_crash(toy, store, act, said):
    grid = expand(toy(), [f"act={act}", "kind=plain", "seed=0"])
    (address,) = run(grid, store, threads()).crashed
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(store.failures()[address]["error"])


def test_processes_die_alone_and_a_death_from_outside_costs_nothing(toy, store, started):
    # seed 0 kills its process each time; "die once" is killed the first time only.
    study = toy(grids=({"act": ("die",), "seed": (0,)}, {"act": ("measure",), "seed": (1, 2, 3)}))
    summary = run(expand(study), store, local(jobs=2))
    (error,) = [held["error"] for held in store.failures().values()]
    assert "died twice" in error
    assert (len(summary.measured), len(summary.crashed), summary.left) == (3, 1, 1)
    assert started().count("plain 0") >= 2


def test_a_process_killed_once_is_measured_again(toy, store, started):
    grid = expand(toy(grids=({"act": ("die once",), "seed": (0, 1)},)))
    summary = run(grid, store, local(jobs=1))
    assert (len(summary.measured), summary.left) == (2, 0)
    assert started() == ["plain 0", "plain 0", "plain 1"]


def test_a_full_disk_stops_the_run_and_what_was_measured_is_tried_again(toy, store, started, monkeypatch):
    grid, put, refused = expand(toy()), Store.put, []

    def full_at_first(self: Store, *arguments: object) -> bool:
        if len(refused) < 1:
            refused.append(arguments)
            raise DataError("study", "to write", "'No space left on device'", "free space")
        return put(self, *arguments)

    monkeypatch.setattr(Store, "put", full_at_first)
    lines: list[str] = []
    summary = run(grid, store, threads(1), say=lines.append)
    assert "No space left" in summary.stopped
    assert (len(started()), len(summary.measured), summary.unkept, summary.left) == (1, 1, [], 5)
    assert any("measured, not kept" in line for line in lines)
    monkeypatch.setattr(Store, "put", lambda self, *a: (_ for _ in ()).throw(DataError("a", "b", "c", "d")))
    summary = run(grid, store, threads(1))
    assert (len(summary.unkept), summary.left) == (1, 5)


def test_a_limit_begins_no_point_that_would_end_later(toy, store, started):
    grid = expand(toy(), ["wait=0.2"])
    summary = run(grid, store, threads(1), limit_s=0.3)
    assert len(summary.measured) == len(started()) == 1
    assert (summary.left, summary.stopped) == (5, "the limit of 0.005 minutes")
    assert len(run(grid, store, threads(1), limit_s=0.0).measured) == 1, "the first always runs"


def test_points_of_another_run_are_left_to_it_and_taken_when_it_is_gone(toy, store, started):
    grid = expand(toy())
    with store.claim(grid.points[0].address), store.claim(grid.points[3].address):
        summary = run(grid, store, threads())
    assert (len(summary.measured), summary.left) == (4, 2)
    assert summary.stopped == "2 are being measured by another run"
    assert len(run(grid, store, threads()).measured) == 2
    assert len(started()) == len(set(started())) == 6


class Vanishing(Executor):
    """Answers the first point and nothing after it."""

    def __init__(self, how: str) -> None:
        self.how, self.sent = how, 0

    def submit(self, function, *arguments):  # type: ignore[no-untyped-def, override]
        self.sent += 1
        future: Future = Future()
        if self.sent == 1:
            future.set_result(function(*arguments))
        elif self.how == "cancelled":
            future.cancel()
        elif self.how == "error":
            future.set_exception(OSError("connection closed"))
        elif self.how == "submit":
            raise RuntimeError("the client is closed")
        return future


@pytest.mark.parametrize("how", ["silent", "cancelled", "error", "submit"])
def test_a_lost_executor_is_named_and_what_was_measured_is_kept(toy, store, monkeypatch, how):
    monkeypatch.setattr(engine, "_POLL_S", 0.01)
    place = threads(1, open=lambda: Vanishing(how), alive=lambda executor: executor.sent < 2)
    grid = expand(toy())
    with pytest.raises(Refusal, match="no answer any more"):
        run(grid, store, place)
    assert len(store.finished()) == 1
    assert store.failures() == {}
    assert store.claimed() == set()


def test_a_worker_of_other_code_refuses(toy):
    outcome = run_point(Task("toy_points:measure", {}, ("toy_points",), "another version"))
    assert outcome.record is None
    assert "bring every worker to the same checkout" in outcome.error


def lives(pid: int) -> bool:
    """A process that runs; one that only waits to be buried does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_killed_run_loses_no_finished_point_and_leaves_no_process(toy, store, started, tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from toy_study import TOY
from gatescope.studies import Store, expand
from gatescope.studies.engine import run
from gatescope.studies.executors import local
if __name__ == "__main__":
    run(expand(TOY, ["wait=0.3"]), Store({str(store.folder)!r}), local(2), say=lambda line: print(line, flush=True))
"""
    script = tmp_path / "main.py"
    script.write_text(code)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        while "[2/6]" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGKILL)
    grid = expand(toy(), ["wait=0.3"])
    kept = store.finished()
    assert 2 <= len(kept) < 6
    pids = {int(line.rsplit(" ", 1)[1]) for line in (tmp_path / "started.log").read_text().splitlines()}
    deadline = time.monotonic() + 30
    while any(map(lives, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(lives, pids))
    before = len(started())
    summary = run(grid, store, threads())
    assert len(summary.measured) == len(started()) - before == 6 - len(kept)
    assert store.finished() == {point.address for point in grid.points}


def test_local_processes_have_one_thread_and_are_refused_below_one(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    with pytest.raises(Refusal, match="--jobs 1 or more"):
        local(0)
    executor = local(1).open()
    with executor:
        assert executor.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"


@pytest.mark.parametrize(("seconds", "said"), [(42.4, "42 s"), (720.0, "12 min"), (12000.0, "3 h 20 min")])
def test_durations_read_well(seconds, said):
    assert duration(seconds) == said
