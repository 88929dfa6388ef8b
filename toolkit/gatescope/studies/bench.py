"""`gatescope study bench`: what the engine costs on this machine, beside the goals it has."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from gatescope.studies.engine import run
from gatescope.studies.executors import local
from gatescope.studies.expand import Grid, expand
from gatescope.studies.spec import Metric, Study
from gatescope.studies.store import Store

_POINT_S = 10.0
_OVERHEAD, _RESUME_S, _SPEEDUP = 0.02, 2.0, 1.7
_SWEEP, _SHORT, _BUSY_POINTS, _BUSY = 200, 40, 12, 40_000_000


def bench(say: Callable[[str], None]) -> int:
    """Measure and tell all three; returns 0, met or not."""
    with TemporaryDirectory(prefix="gatescope-study-") as folder:
        say(_overhead(Path(folder) / "overhead"))
        say(_resume(Path(folder) / "resume"))
        say(_speedup(Path(folder)))
    return 0


class _Clock:
    """Told the lines of a run, keeps when each came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, line: str) -> None:
        self.times.append(time.perf_counter())


def _grid(points: int, **fields: float | int) -> Grid:
    axes = {"place": tuple(range(points)), **{name: (value,) for name, value in fields.items()}}
    module = "gatescope.studies.points.idle"
    metric = Metric(name="spent", variable="spent")
    study = Study(
        name="idle",
        title="Idle points",
        point=f"{module}:measure",
        code=(module,),
        grids=(axes,),
        metrics=(metric,),
        replicate="place",
    )
    return expand(study)


def _overhead(folder: Path) -> str:
    """Wall time a point beyond what it spends itself, once the process is up."""
    clock = _Clock()
    run(_grid(_SHORT, asleep=0.05), Store(folder), local(1), say=clock)
    # The first line announces, the second is the point that started the process.
    own = (clock.times[-1] - clock.times[1]) / (_SHORT - 1) - 0.05
    share = own / _POINT_S
    return _row(
        f"engine, a point of {_POINT_S:g} s",
        f"{1e3 * own:.1f} ms, {share:.2%}",
        f"<= {_OVERHEAD:.0%}",
        share <= _OVERHEAD,
    )


def _resume(folder: Path) -> str:
    """The whole command on a sweep that is finished, the start of Python included."""
    grid, store = _grid(_SWEEP), Store(folder)
    from gatescope.studies.points.idle import Idle, measure

    record = measure(Idle())
    for point in grid.points:
        store.put(point, record, {"seconds": 0.0})
    code = (
        "from pathlib import Path\n"
        "from gatescope.studies.bench import _grid\n"
        "from gatescope.studies.engine import run\n"
        "from gatescope.studies.executors import local\n"
        "from gatescope.studies.store import Store\n"
        f"summary = run(_grid({_SWEEP}), Store(Path({str(folder)!r})), local(1))\n"
        "assert summary.left == 0 and not summary.measured\n"
    )
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    seconds = time.perf_counter() - begun
    return _row(f"{_SWEEP} finished points resumed", f"{seconds:.2f} s", f"<= {_RESUME_S:g} s", seconds <= _RESUME_S)


def _speedup(folder: Path) -> str:
    """Busy points on two processes against one, the start of processes left out."""
    rates = []
    for jobs in (1, 2):
        clock = _Clock()
        run(_grid(_BUSY_POINTS, busy=_BUSY), Store(folder / f"busy{jobs}"), local(jobs), say=clock)
        # From when every process has ended a point.
        rates.append((_BUSY_POINTS - jobs) / (clock.times[-1] - clock.times[jobs]))
    ratio = rates[1] / rates[0]
    return _row("two processes against one", f"{ratio:.2f} x", f">= {_SPEEDUP} x", ratio >= _SPEEDUP)


def _row(what: str, measured: str, goal: str, met: bool) -> str:
    return f"{what:<34} {measured:<18} goal {goal:<9} {'met' if met else 'NOT MET'}"


__all__ = ["bench"]
