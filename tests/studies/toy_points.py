"""A point that costs nothing and does on request all that a point can do wrong. Importing it needs no torch."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr
from gatescope import records
from gatescope.errors import Refusal
from gatescope.records import Quantity

LOSS = Quantity("loss", (), "nats", "loss", "L", "toy", "0")
FIRST = Quantity("first_attention", ("layer", "head"), "1", "first-token attention", "a", "toy", "1/n")
#: Every start of a point leaves a line in this file, when the environment names it.
LOG = "TOY_POINTS_LOG"


@dataclass(frozen=True, slots=True, kw_only=True)
class Toy:
    """What the toy does: ``act`` on the way, and numbers that depend on kind, rate and seed."""

    kind: Literal["plain", "gated", "wide"] = "plain"
    rate: float = 0.5
    seed: int = 0
    act: Literal["measure", "raise", "die", "die once", "number", "text"] = "measure"
    wait: float = 0.0

    def __post_init__(self) -> None:
        if self.kind == "wide" and self.rate > 0.5:
            raise Refusal("Toy", "rate <= 0.5 for kind 'wide'", f"{self.rate}", "lower it")


def measure(config: Toy) -> xr.Dataset:
    """A record of two variables; what `Toy.act` says instead."""
    log = os.environ.get(LOG)
    if log:
        with Path(log).open("a") as file:
            file.write(f"{config.kind} {config.seed} {os.getpid()}\n")
    time.sleep(config.wait)
    if config.act == "raise":
        raise ZeroDivisionError(f"seed {config.seed} divides by zero")
    if config.act == "die" or (config.act == "die once" and log and Path(log).read_text().count("\n") == 1):
        os._exit(7)
    if config.act == "number":
        return 3  # type: ignore[return-value]
    rng = np.random.default_rng(config.seed)
    base, effect = rng.normal(), {"plain": 0.0, "gated": -1.0, "wide": 0.5}[config.kind]
    heads = np.full((2, 3), 0.1) + 0.01 * config.seed
    heads[1, 2] = 0.9 if config.kind == "plain" else 0.4
    loss = LOSS.variable(5 + base + effect * config.rate + 0.01 * rng.normal())
    found = {"loss": loss, "first_attention": FIRST.variable(heads)}
    if config.act == "text":
        found["loss"] = LOSS.variable("five")
    return records.new(found, kind_of_run=config.kind)


def measure_curve(config: Toy) -> xr.Dataset:
    """Three steps of it."""
    return records.concat([measure(config) for _ in range(3)], "step", [0, 5, 10])


def measure_together(config: Toy) -> xr.Dataset:
    """A loss of 10 times the processes plus the sum of their ranks, on every rank; rank 1 fails at the act "raise"."""
    import torch
    from torch import distributed

    total = torch.tensor(10.0 + distributed.get_rank())
    distributed.all_reduce(total)
    if config.act == "raise" and distributed.get_rank() == 1:
        raise ZeroDivisionError("rank 1 divides by zero")
    return records.new({"loss": LOSS.variable(float(total) + 100 * distributed.get_rank())})
