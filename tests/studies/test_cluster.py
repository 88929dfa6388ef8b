"""A real Dask scheduler with two workers: one is killed in mid-run, nothing is lost and no point counted twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from gatescope.errors import Refusal
from gatescope.studies import expand
from gatescope.studies.engine import run
from gatescope.studies.gather import gather

QUIET = ("--no-dashboard",)


@pytest.fixture
def cluster(require: Callable[..., None], tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """The address of a scheduler, and it and its two workers as processes."""
    require("distributed")
    note = tmp_path / "scheduler.json"
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parent),
        "TOY_POINTS_LOG": str(tmp_path / "started.log"),
    }
    commands = [["scheduler", "--host", "127.0.0.1", "--port", "0", *QUIET]] + 2 * [
        ["worker", "--nthreads", "1", "--no-nanny", "--local-directory", str(tmp_path), *QUIET]
    ]
    with ExitStack() as stack:
        log = stack.enter_context((tmp_path / "dask.log").open("w"))
        processes = []
        for name, *options in commands:
            command = [sys.executable, "-m", f"distributed.cli.dask_{name}", "--scheduler-file", str(note), *options]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)
        deadline = time.monotonic() + 60
        while not note.exists():
            assert time.monotonic() < deadline, (tmp_path / "dask.log").read_text()
            time.sleep(0.05)
        yield json.loads(note.read_text())["address"], processes


def test_a_killed_worker_loses_nothing_and_counts_nothing_twice(toy, store, started, cluster, tmp_path):
    from gatescope.studies.cluster import dask

    address, _ = cluster
    killed: list[int] = []

    def kill_in_mid_run() -> None:
        log = tmp_path / "started.log"
        while not log.exists() or len(log.read_text().splitlines()) < 3:
            time.sleep(0.02)
        killed.append(int(log.read_text().splitlines()[2].rsplit(" ", 1)[1]))
        psutil.Process(killed[0]).kill()

    killer = threading.Thread(target=kill_in_mid_run, daemon=True)
    killer.start()
    grid = expand(toy(), ["wait=1.0"])
    summary = run(grid, store, dask(address))
    killer.join()
    begun = started()
    # What the worker was at when it died was begun again elsewhere (and what it had not yet sent), and is kept once.
    assert len(begun) > len(set(begun)) == 6
    assert (len(summary.measured), summary.crashed, summary.left) == (6, [], 0)
    record = gather(grid, store)
    assert record.point.values.tolist() == [point.address for point in grid.points]
    assert len({store.about(point.address)["pid"] for point in grid.points} | set(killed)) == 2


def test_a_vanished_scheduler_is_named_and_what_was_measured_is_kept(toy, store, cluster):
    from gatescope.studies.cluster import dask

    address, processes = cluster
    with pytest.raises(Refusal, match="no answer any more"):
        run(expand(toy(), ["wait=0.2"]), store, dask(address, timeout_s=3.0), say=Fuse(processes[0].kill))
    assert 1 <= len(store.finished()) < 6
    assert store.failures() == {}


class Fuse:
    """Called with the first finished point, burns once."""

    def __init__(self, burn: Callable[[], None]) -> None:
        self.burn, self.lines = burn, 0

    def __call__(self, line: str) -> None:
        self.lines += 1
        if self.lines == 2:
            self.burn()


def test_a_scheduler_that_is_not_there_is_refused(toy, store, require):
    require("distributed")
    from gatescope.studies.cluster import dask

    with pytest.raises(Refusal, match="start one with `dask scheduler`"):
        run(expand(toy()), store, dask("tcp://127.0.0.1:9", timeout_s=0.3))
