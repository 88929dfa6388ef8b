"""Every variant against its control, replicate by replicate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from gatescope.errors import Refusal
from gatescope.studies.expand import Grid, Point
from gatescope.studies.spec import Metric
from gatescope.studies.statistics import holm, paired, verdict


@dataclass(frozen=True, slots=True)
class Effect:
    """One variant, one metric.

    label        the variant by the fields that vary
    n            replicates that variant and control both have
    value        mean of the variant over those it has
    against      mean of its control over the shared replicates; NaN for a control, and where it has no such number
    mean, low, high, p  of the paired differences, variant minus control; see `statistics.paired`
    corrected    p by Holm's rule over all comparisons of this metric
    verdict      see `statistics.verdict`; "control" for a control, "no control" where there is nothing to compare with
    """

    metric: str
    label: str
    config: Mapping[str, Any]
    n: int
    value: float
    against: float
    mean: float
    low: float
    high: float
    p: float
    corrected: float
    verdict: str


def effects(grid: Grid, frame: pd.DataFrame, metric: Metric) -> list[Effect]:
    """Every variant of the table of `gather.table` in the grid's order, for one metric."""
    values = dict(zip(frame["address"], frame[metric.name], strict=True))
    variants: dict[str, dict[Any, float]] = {}
    configs: dict[str, dict[str, Any]] = {}
    for point in grid.points:
        rest = without_replicate(grid, point)
        configs.setdefault(repr(rest), rest)
        value = values.get(point.address, float("nan"))
        if value == value:
            variants.setdefault(repr(rest), {})[point.config[grid.study.replicate]] = value
    found = [_effect(grid, metric, key, variants, configs) for key in configs if key in variants]
    corrected = holm([effect.p for effect in found])
    replicate = grid.study.replicate
    return [
        effect if effect.verdict else replace(effect, corrected=p, verdict=verdict(effect.n, effect.mean, p, replicate))
        for effect, p in zip(found, corrected, strict=True)
    ]


def without_replicate(grid: Grid, point: Point) -> dict[str, Any]:
    """A config that all replicates of a variant share."""
    return {key: value for key, value in point.config.items() if key != grid.study.replicate}


def _effect(
    grid: Grid,
    metric: Metric,
    key: str,
    variants: Mapping[str, Mapping[Any, float]],
    configs: Mapping[str, Mapping[str, Any]],
) -> Effect:
    own, config, nan = variants[key], configs[key], float("nan")
    bare = Effect(
        metric.name, grid.label(config), config, len(own), _mean(own.values()), nan, nan, nan, nan, nan, nan, ""
    )
    if _is_control(grid, config):
        return replace(bare, verdict="control")
    twins = [
        name
        for name, other in configs.items()
        if _is_control(grid, other) and all(other[axis] == config[axis] for axis in grid.study.match)
    ]
    if len(twins) > 1:
        got = f"{len(twins)} for {bare.label}"
        raise Refusal(f"study {grid.study.name}", "one control a variant", got, "add what tells them apart to `match`")
    theirs = variants.get(twins[0], {}) if twins else {}
    shared = [replicate for replicate in own if replicate in theirs]
    if not shared:
        return replace(bare, verdict="no control")
    result = paired([own[replicate] - theirs[replicate] for replicate in shared])
    against = _mean(theirs[replicate] for replicate in shared)
    return replace(bare, n=result.n, against=against, mean=result.mean, low=result.low, high=result.high, p=result.p)


def _is_control(grid: Grid, config: Mapping[str, Any]) -> bool:
    control = grid.study.control
    return bool(control) and all(config[axis] == value for axis, value in control.items())


def _mean(values: Any) -> float:
    held = list(values)
    return sum(held) / len(held)


__all__ = ["Effect", "effects", "without_replicate"]
