"""Up to where along an axis, such as a learning rate, a variant does about as well as at its best on that axis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from gatescope.errors import Refusal
from gatescope.studies.along import curves, without
from gatescope.studies.effects import Effect, effects, without_replicate
from gatescope.studies.expand import Grid
from gatescope.studies.spec import Metric

#: A value of the axis is borne when the metric there is at most this much worse than at the best one, in its own unit.
MARGIN = 0.1


@dataclass(frozen=True, slots=True)
class Borne:
    """How far one variant goes.

    largest  replicate -> `largest_borne`
    at_end   replicates that bear the last value of the axis: theirs is that or more
    effect   of log2 of it, variant minus control, so that 1 is twice as far; see `effects`
    """

    largest: Mapping[Any, float]
    at_end: tuple[Any, ...]
    effect: Effect


def largest_borne(curve: Mapping[int | float, float]) -> float:
    """The largest x with L(x) <= min L + `MARGIN`, where ``curve`` is x -> L; NaN where no L is a number.

    L is a loss, say, over learning rates x. A run that diverged has none (NaN) and does not bear its rate. Between two
    values L is taken as straight over log x, so that what is found is not bound to the grid; towards a run that
    diverged there is no line, and the last value that was borne counts.
    """
    known = {x: loss for x, loss in curve.items() if math.isfinite(loss)}
    if not known:
        return math.nan
    limit = min(known.values()) + MARGIN
    last = max(x for x, loss in known.items() if loss <= limit)
    after = min((x for x in curve if x > last), default=math.nan)
    if after not in known:
        return last
    share = (limit - known[last]) / (known[after] - known[last])
    return last * (after / last) ** share


def borne(grid: Grid, frame: pd.DataFrame, metric: Metric, axis: str) -> list[Borne]:
    """`largest_borne` of ``metric`` along ``axis`` for every variant of the table of `gather.table` or `kept_table`.

    Variants are those of the study without the axis. Raises Refusal for an axis that `along.curves` refuses, and for
    one whose values are not the same for all variants.
    """
    found = curves(grid, frame, metric, axis)
    values = {frozenset(curve.values) for curve in found}
    if len(values) > 1:
        got = f"{len(values)} sets of them"
        raise Refusal(f"{axis} that is borne", f"the same values of {axis!r} for all variants", got, "use --only")
    sign = 1 if metric.better == "less" else -1
    largest = {
        curve.point.address: largest_borne({x: sign * value for x, value in curve.values.items()}) for curve in found
    }
    points = tuple(curve.point for curve in found)
    spent = replace(grid, study=without(grid.study, axis), points=points)
    table = pd.DataFrame({"address": list(largest), metric.name: [math.log2(x) for x in largest.values()]})
    return [_of_variant(effect, spent, largest, max(found[0].values)) for effect in effects(spent, table, metric)]


def _of_variant(effect: Effect, spent: Grid, largest: Mapping[str, float], end: float) -> Borne:
    own = [point for point in spent.points if without_replicate(spent, point) == effect.config]
    far = {point.config[spent.study.replicate]: largest[point.address] for point in own}
    return Borne(far, tuple(place for place, x in far.items() if x == end), effect)


__all__ = ["MARGIN", "Borne", "borne", "largest_borne"]
