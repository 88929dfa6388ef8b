"""Where points run: any executor of concurrent.futures. No scheduler of our own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait

from gatescope.errors import Refusal
from gatescope.studies.worker import one_thread


@dataclass(frozen=True, slots=True)
class Place:
    """An executor as the engine sees it.

    name   for messages
    open   a new executor; called again when one broke
    slots  how many points it can run at once, now
    alive  False when it will answer no more
    stop   end what runs, at once
    """

    name: str
    open: Callable[[], Executor]
    slots: Callable[[Executor], int]
    alive: Callable[[Executor], bool]
    stop: Callable[[Executor], None]


def local(jobs: int | None = None) -> Place:
    """Processes on this machine, one torch thread each; as many as there are cores when ``jobs`` is None.

    They are spawned, not forked: a fork of a process that has used torch may hang. Raises Refusal for jobs below 1.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = cores if jobs is None else jobs
    if count < 1:
        raise Refusal("study run", "--jobs 1 or more", str(jobs), "leave it out for one a core")
    return Place(
        f"{count} local process{'es' if count > 1 else ''}",
        open=lambda: _Pool(count, multiprocessing.get_context("spawn"), _begin),
        slots=lambda executor: count,
        alive=lambda executor: True,
        stop=_stop,
    )


class _Pool(ProcessPoolExecutor):
    def end(self) -> None:
        """End the processes; what they were doing is lost."""
        processes = list((self._processes or {}).values())
        self.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()


def _stop(executor: Executor) -> None:
    if isinstance(executor, _Pool):
        executor.end()


def _begin() -> None:
    """In a new process: one thread, Ctrl-C left to the parent, and no life after it."""
    one_thread()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        with suppress(OSError):
            wait([parent.sentinel])
        os._exit(1)


__all__ = ["Place", "local"]
