"""A metric as a curve along one axis of a study, once for every variant and replicate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from gatescope.errors import Refusal
from gatescope.studies.expand import Grid, Point
from gatescope.studies.spec import Metric, Study, refuse_unknown


@dataclass(frozen=True, slots=True)
class Curve:
    """The config of a variant and replicate without the axis as a point of its own, and axis -> metric."""

    point: Point
    values: Mapping[int | float, float]


def curves(grid: Grid, frame: pd.DataFrame, metric: Metric, axis: str) -> list[Curve]:
    """``metric`` along ``axis`` in the table of `gather.table` or `kept_table`; NaN where a point has no number.

    Raises Refusal for an axis that the config does not have, whose values are not numbers above 0, or that is the
    replicate or what makes a control.
    """
    where = f"{metric.name} along an axis"
    refuse_unknown(where, "axes", [axis], list(grid.points[0].config))
    if axis == grid.study.replicate or axis in grid.study.control:
        raise Refusal(where, "an axis of what is compared", f"{axis!r}, which tells what with what", "name another")
    measured = dict(zip(frame["address"], frame[metric.name], strict=True))
    held: dict[str, tuple[dict[str, Any], dict[float, float]]] = {}
    for point in grid.points:
        x = point.config[axis]
        if isinstance(x, str | bool) or x is None or not x > 0:
            raise Refusal(where, f"numbers above 0 on {axis!r}", repr(x), "name an axis of sizes")
        rest = {key: value for key, value in point.config.items() if key != axis}
        held.setdefault(repr(rest), (rest, {}))[1][x] = measured.get(point.address, math.nan)
    return [Curve(Point(rest, key), values) for key, (rest, values) in held.items()]


def without(study: Study, axis: str) -> Study:
    """A study whose variants are compared with no regard to the axis."""
    return replace(study, match=tuple(name for name in study.match if name != axis))


__all__ = ["Curve", "curves", "without"]
