"""Measures what is missing of a grid: isolates what crashes, keeps what is done, says how long the rest will take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from gatescope.errors import DataError, Refusal
from gatescope.studies.executors import Place
from gatescope.studies.expand import Grid, Point
from gatescope.studies.store import Store
from gatescope.studies.worker import Outcome, Task, run_point

if TYPE_CHECKING:
    import xarray as xr

# How often a place is asked whether it is still there.
_POLL_S = 1.0
_DIED = "the process that measured it died twice: killed, or out of memory"


@dataclass(slots=True)
class Summary:
    """How a run ended, as addresses: points measured now, found crashed now, and measured but not kept; and how many
    are left. ``stopped`` says why points are left that nothing is wrong with."""

    measured: list[str] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)
    unkept: list[str] = field(default_factory=list)
    left: int = 0
    stopped: str = ""


def run(
    grid: Grid,
    store: Store,
    place: Place,
    *,
    retry: bool = False,
    limit_s: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Summary:
    """Measure every point of ``grid`` that ``store`` does not have.

    retry    measure points again that crashed before
    limit_s  begin no point that by the median of those measured would end after so many seconds; the first always runs
    say      told one line a point, with an estimate of the time that is left

    A point that raises is kept as crashed with its traceback; one whose process dies is tried once more, alone, and
    the rest goes on either way. Points that another run is measuring are left to it, and taken when it died. When the
    store can no longer be written, no point is begun, and what was measured is tried again at the end.

    Raises Refusal when the executor is lost: what was measured is kept then, and the same call goes on from there.
    """
    return _Run(grid, store, place, retry, limit_s, say).go()


class _Run:
    def __init__(
        self,
        grid: Grid,
        store: Store,
        place: Place,
        retry: bool,
        limit_s: float | None,
        say: Callable[[str], None],
    ) -> None:
        self.grid, self.store, self.place, self.limit_s, self.say = grid, store, place, limit_s, say
        self.begun = time.monotonic()
        done, failed = store.finished(), set() if retry else set(store.failures())
        missing = [point for point in grid.points if point.address not in done]
        self.todo = deque(point for point in missing if point.address not in failed)
        self.finished = len(grid.points) - len(missing)
        self.seconds = store.seconds({point.address for point in grid.points} & done)
        self.summary = Summary()
        self.running: dict[Future[Outcome], tuple[Point, ExitStack]] = {}
        self.suspects: deque[Point] = deque()
        self.suspected: set[str] = set()
        self.elsewhere: list[Point] = []
        self.unkept: list[tuple[Point, xr.Dataset, Outcome]] = []
        self._executor: Executor | None = None

    def go(self) -> Summary:
        self.store.sweep()
        self._announce()
        try:
            while self._pending():
                self._fill()
                if self.running:
                    self._collect()
                elif not self._come_back():
                    break
        except BaseException:
            self._abandon()
            raise
        if self._executor is not None:
            self._executor.shutdown()
        self._keep_at_last()
        self.summary.left = sum(point.address not in self.store.finished() for point in self.grid.points)
        return self.summary

    def _pending(self) -> bool:
        return bool(self.todo or self.running or self.suspects or self.elsewhere)

    def _announce(self) -> None:
        total, left = len(self.grid.points), len(self.todo)
        crashed = total - self.finished - left
        parts = [f"{total} points: {self.finished} finished, {left} to measure"]
        parts += [f"{crashed} crashed before (--retry measures them again)"] if crashed else []
        self.say(", ".join(parts) + (self._estimate(left) if left else ""))

    def _fill(self) -> None:
        """Begin points until the place is full; a suspect alone."""
        while (self.todo or self.suspects) and not self._stopped():
            if self.running and (self.suspects or self._suspect_runs() or len(self.running) >= self._slots()):
                return
            point = (self.suspects or self.todo).popleft()
            held = ExitStack()
            if not held.enter_context(self.store.claim(point.address)):
                held.close()
                self.elsewhere.append(point)
            elif point.address in self.store.finished():
                held.close()
                self.finished += 1
            else:
                self._begin(point, held)

    def _suspect_runs(self) -> bool:
        return any(point.address in self.suspected for point, _ in self.running.values())

    def _begin(self, point: Point, held: ExitStack) -> None:
        study = self.grid.study
        task = Task(study.point, dict(point.config), study.code, self.grid.versions.code, study.processes)
        try:
            future = self._opened().submit(run_point, task)
        except BrokenExecutor:  # broke between two points; nothing was lost
            held.close()
            self._reopen()
            self.todo.appendleft(point)
            return
        except Refusal:  # there was nothing to open
            held.close()
            raise
        except Exception as error:
            held.close()
            raise self._lost() from error
        self.running[future] = point, held

    def _collect(self) -> None:
        done, _ = wait(self.running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
        if not done and not self.place.alive(self._opened()):
            raise self._lost()
        broken: list[Point] = []
        for future in done:
            point, held = self.running.pop(future)
            with held:
                try:
                    self._take(point, future.result())
                except BrokenExecutor:
                    broken.append(point)
                except CancelledError as error:
                    raise self._lost() from error
                except Exception as error:  # the executor could not run it, or not bring the result back
                    if not self.place.alive(self._opened()):
                        raise self._lost() from error
                    self._crash(point, f"{type(error).__name__}: {error}", {})
        if broken:
            self._bury(broken)

    def _take(self, point: Point, outcome: Outcome) -> None:
        if outcome.record is None:
            self._crash(point, outcome.error, {**outcome.about, "seconds": outcome.seconds})
            return
        self.seconds.append(outcome.seconds)
        try:
            kept = self._keep(point, outcome.record, outcome)
        except DataError as error:
            self.unkept.append((point, outcome.record, outcome))
            self.summary.stopped = str(error)
            self.say(f"{self.grid.label(point.config)}: measured, not kept; {error}")
            return
        except Refusal as error:
            self._crash(point, str(error), outcome.about)
            return
        self.finished += 1
        if kept:
            self.summary.measured.append(point.address)
        self._tell(point, f"{outcome.seconds:.3g} s" if kept else "another run had kept it")

    def _keep(self, point: Point, record: xr.Dataset, outcome: Outcome) -> bool:
        from gatescope.records import provenance

        return self.store.put(point, record, {"seconds": outcome.seconds, **outcome.about, **provenance()})

    def _crash(self, point: Point, error: str, about: Any) -> None:
        self.summary.crashed.append(point.address)
        self._tell(point, f"CRASHED: {error.strip().splitlines()[-1]}")
        try:
            self.store.fail(point, error, about)
        except DataError as lost:
            self.summary.stopped = str(lost)

    def _bury(self, broken: list[Point]) -> None:
        """The pool died under these points and under those still running: which one did it, each alone will show."""
        for point, held in self.running.values():
            held.close()
            broken.append(point)
        self.running.clear()
        self._reopen()
        for point in broken:
            if point.address in self.suspected and len(broken) == 1:
                self._crash(point, _DIED, {})
            else:
                self.suspected.add(point.address)
                self.suspects.append(point)

    def _come_back(self) -> bool:
        """Points that another run had: those it left are ours now. False when there is nothing more to do."""
        if self._stopped() or not self.elsewhere:
            return False
        waiting, self.elsewhere = self.elsewhere, []
        claimed, done = self.store.claimed(), self.store.finished()
        self.finished += sum(point.address in done for point in waiting)
        self.todo.extend(p for p in waiting if p.address not in done and p.address not in claimed)
        busy = [p for p in waiting if p.address not in done and p.address in claimed]
        if busy and not self.todo:
            self.summary.stopped = f"{len(busy)} are being measured by another run"
            return False
        self.elsewhere = busy
        return True

    def _stopped(self) -> bool:
        if self.summary.stopped:
            return True
        begun_any = bool(self.running or self.summary.measured or self.summary.crashed)
        if self.limit_s is not None and begun_any:
            typical = median(self.seconds) if self.seconds else 0.0
            if time.monotonic() - self.begun + typical > self.limit_s:
                self.summary.stopped = f"the limit of {self.limit_s / 60:g} minutes"
        return bool(self.summary.stopped)

    def _keep_at_last(self) -> None:
        for point, record, outcome in self.unkept:
            try:
                self._keep(point, record, outcome)
                self.summary.measured.append(point.address)
            except DataError:
                self.summary.unkept.append(point.address)

    def _tell(self, point: Point, how: str) -> None:
        total = len(self.grid.points)
        left = len(self.todo) + len(self.running) + len(self.suspects) + len(self.elsewhere)
        rest = f"; {left} left{self._estimate(left)}" if left else ""
        self.say(f"[{self.finished:>{len(str(total))}}/{total}] {self.grid.label(point.config)}: {how}{rest}")

    def _estimate(self, left: int) -> str:
        if not self.seconds:
            return ""
        slots = max(1, self._slots()) if self._executor is not None else 1
        return f", about {duration(median(self.seconds) * left / slots)}"

    def _slots(self) -> int:
        return self.place.slots(self._opened())

    def _opened(self) -> Executor:
        if self._executor is None:
            self._executor = self.place.open()
        return self._executor

    def _reopen(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
        self._executor = None

    def _lost(self) -> Refusal:
        got = f"no answer any more; {len(self.running) or 'some'} points were running, {self.finished} are kept"
        return Refusal("study run", self.place.name, got, "start it again and give the same command: it goes on there")

    def _abandon(self) -> None:
        for _, held in self.running.values():
            held.close()
        if self._executor is not None:
            self.place.stop(self._executor)


def duration(seconds: float) -> str:
    """Seconds for a reader: 42 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


__all__ = ["Summary", "duration", "run"]
