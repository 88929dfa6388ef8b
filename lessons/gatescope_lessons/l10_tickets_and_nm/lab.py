"""The experiments of lesson 10 as one record, and what its claims are judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
import xarray as xr
from gatescope import data, records

from gatescope_lessons.l10_tickets_and_nm.lazy import LEARNERS, measure_lazy
from gatescope_lessons.l10_tickets_and_nm.nm import PATTERNS, measure_nm
from gatescope_lessons.l10_tickets_and_nm.runs import STEPS
from gatescope_lessons.l10_tickets_and_nm.tickets import ROUNDS, STARTS, measure_tickets

SEEDS = (0, 1, 2, 3, 4)
#: Shares of the weights that claims speak of, as the record labels them.
HALF, TENTH, TWENTIETH, THIRTIETH = 0.4145, 0.1122, 0.0477, 0.0313


def measure_seed(
    seed: int,
    *,
    rounds: Sequence[int] = ROUNDS,
    patterns: Sequence[str] = PATTERNS,
    learners: Sequence[str] = tuple(LEARNERS),
    steps: int | None = None,
) -> xr.Dataset:
    """Tickets, N:M and lazy neurons of one seed; ``steps`` shortens every run."""
    parts = [
        measure_tickets(seed, rounds, steps or STEPS),
        measure_nm(seed, patterns, steps or STEPS),
        measure_lazy(seed, learners, steps),
    ]
    every = sorted({int(step) for part in parts for step in part.step.values})
    return records.merge([part.reindex(step=every) for part in parts])


def measure(profile: str = "full", *, seeds: Sequence[int] | None = None) -> xr.Dataset:
    """Everything, along ``seed``. ``quick`` takes one seed, two levels, one pattern, two learners and 50 steps."""
    quick = profile == "quick"
    seeds = seeds or (SEEDS[:1] if quick else SEEDS)
    short = {"rounds": (0, 1), "patterns": ("2:4",), "learners": ("transformer", "network"), "steps": 50}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = [measure_seed(seed, **(short if quick else {})) for seed in seeds]  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(threads)
    return records.concat(found, dim="seed", labels=list(seeds))


MEASURE = measure


def published() -> xr.Dataset:
    """The record in data/ that the claims are judged by. Raises DataError when it is missing or changed."""
    return records.load(data.path("measured/l10_tickets_and_nm.nc"))


def accuracy_at(record: xr.Dataset, start: str, kept: float, step: int = STEPS) -> np.ndarray:
    """Test accuracy of a start at a level of pruning and a step, one value a seed."""
    return record.ticket_accuracy.sel(start=start, kept=kept, step=step).values


def gain(record: xr.Dataset, kept: float, over: str = "dense", start: str = STARTS[0], step: int = STEPS) -> np.ndarray:
    """How much more accurate a start is than another one of the same level, or than the dense network, a seed."""
    other = accuracy_at(record, STARTS[0], 1.0, step) if over == "dense" else accuracy_at(record, over, kept, step)
    return accuracy_at(record, start, kept, step) - other


def restlessness(record: xr.Dataset, rule: str, pattern: str = "2:4") -> np.ndarray:
    """Mean SAD over the second half of training, one value a seed."""
    late = record.sad.sel(rule=rule, pattern=pattern)
    return late.where(late.step > STEPS // 2).mean("step").values


def _over_dense(record: xr.Dataset, rule: str, pattern: str = "2:4") -> np.ndarray:
    own = record.nm_accuracy.sel(pattern=pattern)
    return (own.sel(rule=rule) - own.sel(rule="dense")).values


def active(record: xr.Dataset, variant: str) -> np.ndarray:
    """Share of active neurons when training ended, one value a seed."""
    own = record.active.sel(variant=variant).dropna("step")
    return own.isel(step=-1).values


def fall(record: xr.Dataset, variant: str) -> np.ndarray:
    """Share of active neurons when training ended, over that before it began, one value a seed."""
    return active(record, variant) / record.active.sel(variant=variant, step=0).values


def _wider(record: xr.Dataset, wide: str, narrow: str) -> np.ndarray:
    return active(record, wide) / active(record, narrow)


def lazy_table(record: xr.Dataset) -> pd.DataFrame:
    """Per learner, means over seeds: the share of active neurons before and after training, and the loss it came to."""
    rows = {
        str(name): {
            "active before": f"{float(record.active.sel(variant=name, step=0).mean()):.1%}",
            "after": f"{active(record, str(name)).mean():.1%}",
            "training loss, nats": f"{float(record.lazy_loss.sel(variant=name).mean()):.3f}",
        }
        for name in record.variant.values
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("learner")


#: Name in claims/*.toml -> one effect a seed.
METRICS: dict[str, Callable[[xr.Dataset], np.ndarray]] = {
    "accuracy_ticket_11_minus_dense": partial(gain, kept=TENTH),
    "accuracy_ticket_41_minus_dense": partial(gain, kept=HALF),
    "accuracy_ticket_41_minus_dense_step_25": partial(gain, kept=HALF, step=25),
    "accuracy_ticket_5_minus_new_weights": partial(gain, kept=TWENTIETH, over=STARTS[1]),
    "accuracy_new_weights_3_minus_dense": partial(gain, kept=THIRTIETH, start=STARTS[1]),
    "accuracy_srste_minus_dense": partial(_over_dense, rule="SR-STE"),
    "nll_srste_minus_ste": lambda record: (
        (record.nm_nll.sel(rule="SR-STE", pattern="2:4") - record.nm_nll.sel(rule="STE", pattern="2:4")).values
    ),
    "sad_srste_over_ste": lambda record: restlessness(record, "SR-STE") / restlessness(record, "STE"),
    "active_transformer_fall": partial(fall, variant="transformer"),
    "active_network_fall": partial(fall, variant="network"),
    "active_by_heart_fall": partial(fall, variant="transformer, by heart"),
    "active_transformer": partial(active, variant="transformer"),
    "active_wide_over_narrow": partial(_wider, wide="transformer, wide", narrow="transformer, narrow"),
}
