"""How a metric goes along one axis of a study, a power law's exponent for every variant and replicate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from gatescope.errors import Refusal
from gatescope.rates import rate
from gatescope.studies.along import curves, without
from gatescope.studies.effects import Effect, effects, without_replicate
from gatescope.studies.expand import Grid, Point
from gatescope.studies.spec import Metric
from gatescope.studies.statistics import Paired, holm, paired, verdict


@dataclass(frozen=True, slots=True)
class Slope:
    """One variant's exponent of one metric.

    values     replicate -> exponent
    own        their mean and interval over replicates; its p asks whether the exponent is 0
    corrected  that p by Holm's rule over all variants
    verdict    "less" or "greater" than 0, or why neither is said; see `statistics.verdict`
    effect     the variant's exponents against its control's, replicate by replicate; see `effects`
    """

    values: Mapping[Any, float]
    own: Paired
    corrected: float
    verdict: str
    effect: Effect


def slopes(grid: Grid, frame: pd.DataFrame, metric: Metric, axis: str) -> list[Slope]:
    """The exponent of ``metric`` along ``axis`` for every variant of the table of `gather.table` or `kept_table`.

        metric ~ axis^slope,    slope = least squares of log metric over log axis (`rates.rate`), once a replicate

    Variants are those of the study without the axis. A replicate counts where the metric is a number above 0 at every
    value of the axis that its variant has, so that all exponents of a variant are over the same range.

    Raises Refusal for an axis that the config does not have, whose values are not numbers above 0, or that is the
    replicate or what makes a control, and where no variant has two values of it.
    """
    points, values = _along(grid, frame, metric, axis)
    study = without(grid.study, axis)
    spent = replace(grid, study=study, points=points)
    table = pd.DataFrame({"address": list(values), metric.name: list(values.values())})
    replicates: dict[str, dict[Any, float]] = {}
    for point in points:
        if math.isfinite(values[point.address]):
            own = replicates.setdefault(_variant(grid, point), {})
            own[point.config[study.replicate]] = values[point.address]
    found = effects(spent, table, metric)
    held = [replicates[repr(effect.config)] for effect in found]
    means = [paired(list(exponents.values())) for exponents in held]
    corrected = holm([one.p for one in means])
    return [
        Slope(exponents, one, p, verdict(one.n, one.mean, p, study.replicate), effect)
        for exponents, one, p, effect in zip(held, means, corrected, found, strict=True)
    ]


def _along(grid: Grid, frame: pd.DataFrame, metric: Metric, axis: str) -> tuple[tuple[Point, ...], Mapping[str, float]]:
    """A point for every variant and replicate, with the exponent in place of the axis; NaN where there is none."""
    held = curves(grid, frame, metric, axis)
    sizes: dict[str, set[float]] = {}
    for curve in held:
        sizes.setdefault(_variant(grid, curve.point), set()).update(curve.values)
    wanted = {curve.point.address: sizes[_variant(grid, curve.point)] for curve in held}
    wide = [curve for curve in held if len(wanted[curve.point.address]) > 1]
    if not wide:
        where = f"slopes of {metric.name}"
        raise Refusal(where, f"two values of {axis!r} or more in a variant", "one", "name an axis that varies alone")
    values = {
        curve.point.address: _exponent(curve.values) if set(curve.values) == wanted[curve.point.address] else math.nan
        for curve in wide
    }
    return tuple(curve.point for curve in wide), values


def _variant(grid: Grid, point: Point) -> str:
    return repr(without_replicate(grid, point))


def _exponent(curve: Mapping[int | float, float]) -> float:
    """`rate` of size -> metric; NaN where a value has no logarithm."""
    ordered = sorted(curve)
    values = [curve[size] for size in ordered]
    return rate(np.array(ordered), values) if all(value > 0 and math.isfinite(value) for value in values) else math.nan


__all__ = ["Slope", "slopes"]
