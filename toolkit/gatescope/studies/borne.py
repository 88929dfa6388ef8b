"""Up to where along an axis, such as a learning rate, a variant does about as well as at its best on that axis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from gatescope.errors import Refusal
from gatescope.studies.effects import Effect, effects, without_replicate
from gatescope.studies.expand import Grid, Point
from gatescope.studies.spec import Metric, refuse_unknown

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


def largest_borne(curve: Mapping[float, float]) -> float:
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

    Variants are those of the study without the axis. Raises Refusal for an axis that the config does not have, that is
    the replicate or makes a control, and whose values are not numbers above 0 or not the same for all variants.
    """
    study = grid.study
    curves = _curves(grid, frame, metric, axis)
    largest = {key: largest_borne(curve) for key, (_, curve) in curves.items()}
    points = tuple(Point(rest, key) for key, (rest, _) in curves.items())
    match = tuple(name for name in study.match if name != axis)
    spent = replace(grid, study=replace(study, match=match), points=points)
    table = pd.DataFrame({"address": list(largest), metric.name: [math.log2(x) for x in largest.values()]})
    end = max(point.config[axis] for point in grid.points)
    found = []
    for effect in effects(spent, table, metric):
        own = [point for point in points if without_replicate(spent, point) == effect.config]
        far = {point.config[study.replicate]: largest[point.address] for point in own}
        found.append(Borne(far, tuple(seed for seed, x in far.items() if x == end), effect))
    return found


def _curves(
    grid: Grid, frame: pd.DataFrame, metric: Metric, axis: str
) -> dict[str, tuple[dict[str, Any], dict[float, float]]]:
    """For every variant and replicate its config without the axis, and axis -> metric, the less the better."""
    where = f"largest {axis} borne, by {metric.name}"
    refuse_unknown(where, "axes", [axis], list(grid.points[0].config))
    if axis == grid.study.replicate or axis in grid.study.control:
        raise Refusal(where, "an axis of what is compared", f"{axis!r}, which tells what with what", "name another")
    measured = dict(zip(frame["address"], frame[metric.name], strict=True))
    sign = 1 if metric.better == "less" else -1
    found: dict[str, tuple[dict[str, Any], dict[float, float]]] = {}
    for point in grid.points:
        rest, x = {key: value for key, value in point.config.items() if key != axis}, point.config[axis]
        if isinstance(x, str | bool) or x is None or not x > 0:
            raise Refusal(where, f"numbers above 0 on {axis!r}", repr(x), "name an axis of sizes")
        found.setdefault(repr(rest), (rest, {}))[1][x] = sign * measured.get(point.address, math.nan)
    values = {frozenset(curve) for _, curve in found.values()}
    if len(values) > 1:
        raise Refusal(where, f"the same values of {axis!r} for all", f"{len(values)} sets of them", "use --only")
    return found


__all__ = ["MARGIN", "Borne", "borne", "largest_borne"]
