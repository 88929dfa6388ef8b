"""What a worker does: one point, from its config to a record or to a traceback, never to an exception."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gatescope import specs
from gatescope.errors import Refusal
from gatescope.studies.address import code_version
from gatescope.studies.expand import resolve
from gatescope.studies.launched import measure_together

if TYPE_CHECKING:
    import xarray as xr

#: A process measures one point at a time: probes and interventions are set on a thread, the random state is torch's.
_ONE = threading.Lock()


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is sent: the function, the config as plain values, the code it must have, and over how many
    processes it is measured."""

    point: str
    config: Mapping[str, Any]
    code: tuple[str, ...]
    version: str
    processes: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What comes back: a record, or why there is none; seconds of the function alone, where, and under what code."""

    record: xr.Dataset | None
    error: str
    seconds: float
    about: Mapping[str, Any]


def run_point(task: Task) -> Outcome:
    """Measure one point. Whatever the point function raises is the outcome's ``error``, with its traceback."""
    with _ONE:
        one_thread()
        start = time.perf_counter()
        try:
            record = _measured(task)
        except Exception:
            return Outcome(None, traceback.format_exc(), time.perf_counter() - start, _about())
        return Outcome(record, "", time.perf_counter() - start, _about())


def one_thread() -> None:
    """One thread for torch: points side by side use the cores better than threads inside one."""
    for name, value in (("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "PASSIVE")):
        os.environ.setdefault(name, value)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


def _measured(task: Task) -> xr.Dataset:
    here = code_version(task.code)
    if here != task.version:
        step = "bring every worker to the same checkout (git pull there) and start it again"
        raise Refusal("study worker", f"code version {task.version}", here, step)
    record = _alone(task) if task.processes == 1 else measure_together(task.point, task.config, task.processes)
    import xarray as xr

    from gatescope.records.schema import check

    if not isinstance(record, xr.Dataset):
        raise Refusal(task.point, "a record (xarray Dataset)", type(record).__name__, "return what records.new makes")
    return check(record, task.point).load()


def _alone(task: Task) -> xr.Dataset:
    function, config = resolve(task.point)
    one_thread()  # resolving may have imported torch
    return function(specs.from_dict(config, task.config))


def _about() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid()}


__all__ = ["Outcome", "Task", "one_thread", "run_point"]
