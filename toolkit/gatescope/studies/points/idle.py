"""A point for benches: it keeps one core busy for a while, or sleeps, and measures how long it did."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """``busy`` additions in Python, then ``asleep`` seconds; ``place`` tells points apart."""

    place: int = 0
    busy: int = 0
    asleep: float = 0.0


def measure(idle: Idle) -> xr.Dataset:
    """A record of one number."""
    begun = time.perf_counter()
    total = 0
    for number in range(idle.busy):
        total += number
    time.sleep(idle.asleep)
    from gatescope import records
    from gatescope.records import Quantity

    spent = Quantity("spent", (), "s", "time inside the point", "perf_counter", "studies.points.idle", "asleep")
    return records.new({"spent": spent.variable(time.perf_counter() - begun)})


__all__ = ["Idle", "measure"]
