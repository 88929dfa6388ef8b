"""A study as text: what was compared with what, effects, best and worst variants, outliers."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from gatescope.studies.borne import MARGIN, Borne, borne
from gatescope.studies.effects import Effect, effects, without_replicate
from gatescope.studies.expand import Grid
from gatescope.studies.slopes import Slope, slopes
from gatescope.studies.spec import Metric
from gatescope.studies.statistics import ALPHA, FEWEST, outliers

_HEAD = ("variant", "n", "mean", "effect", "95 % interval", "p (Holm)", "verdict")
_ALONG = ("variant", "n", "exponent", "95 % interval", "p (Holm)", "against 0", "minus control", "p (Holm)", "verdict")
_BORNE = ("variant", "n", "largest, by {}", "effect (log2)", "95 % interval", "p (Holm)", "verdict")
_ENDS = 3


def shown(grid: Grid, frame: pd.DataFrame) -> list[str]:
    """The lines of `gatescope study show`, for the table of `gather.table`."""
    study = grid.study
    replicate = study.replicate
    control = ", ".join(f"{key}={value}" for key, value in study.control.items()) or "none"
    same = ", ".join((*study.match, replicate))
    lines = [
        f"{study.title}: {len(frame)} of {len(grid.points)} points",
        f"effect: variant minus control ({control}) at the same {same}; mean of the paired differences",
        f"interval: percentile bootstrap over {replicate}s, which is narrow for a few of them",
        f"p: paired t test, corrected by Holm over all comparisons of a metric; a verdict wants p < {ALPHA} and "
        f"{FEWEST} {replicate}s",
    ]
    for metric in study.metrics:
        lines += ["", *_metric(grid, frame, metric)]
    return lines


def shown_along(grid: Grid, frame: pd.DataFrame, axis: str) -> list[str]:
    """The lines of `gatescope study show --along`: exponents along an axis in place of values."""
    replicate = grid.study.replicate
    lines = [
        f"{grid.study.title}: {len(frame)} of {len(grid.points)} points",
        f"exponent: slope of log metric over log {axis}, mean over {replicate}s, compared with 0",
        "minus control: mean of the paired differences of exponents",
        f"interval and p as of effects; a verdict wants p < {ALPHA} and {FEWEST} {replicate}s",
    ]
    for metric in grid.study.metrics:
        found = slopes(grid, frame, metric, axis)
        rows = _aligned([_ALONG, *map(_exponents, found)]) if found else ["a value is 0 or missing in every variant"]
        lines += ["", metric.name, *(f"  {row}" for row in rows)]
    return lines


def shown_borne(grid: Grid, frame: pd.DataFrame, axis: str) -> list[str]:
    """The lines of `gatescope study show --borne`: how far along an axis a variant is about as good as at its best."""
    replicate = grid.study.replicate
    lines = [
        f"{grid.study.title}: {len(frame)} of {len(grid.points)} points",
        f"largest {axis} whose metric is at most {MARGIN} worse than at the variant's best {axis}, straight over "
        f"log {axis} between two of them; >= where the last is borne",
        f"effect: log2 of it, variant minus control, over {replicate}s; interval, p and verdict as of effects",
    ]
    for metric in grid.study.metrics:
        found = borne(grid, frame, metric, axis)
        head = tuple(name.format(replicate) for name in _BORNE)
        lines += ["", metric.name, *(f"  {row}" for row in _aligned([head, *map(_far, found)]))]
    return lines


def _metric(grid: Grid, frame: pd.DataFrame, metric: Metric) -> list[str]:
    found = effects(grid, frame, metric)
    lines = [f"{metric.name}: {metric.variable}{metric.reduction}"]
    if not found:
        return [*lines, f"  no point here has a variable {metric.variable!r}"]
    lines += [f"  {line}" for line in _aligned([_HEAD, *map(_row, found)])]
    ranked = sorted(found, key=lambda effect: effect.value, reverse=metric.better == "greater")
    if len(ranked) > 2 * _ENDS:
        for what, ends in (("best", ranked[:_ENDS]), ("worst", ranked[: -_ENDS - 1 : -1])):
            lines.append(
                f"  {what} ({metric.better} is better): " + "; ".join(f"{e.label} {e.value:.4g}" for e in ends)
            )
    return [*lines, *_outliers(grid, frame, metric)]


def _row(effect: Effect) -> tuple[str, ...]:
    numbers = ("", "", "")
    if effect.mean == effect.mean:
        interval = f"[{effect.low:.3g}, {effect.high:.3g}]" if effect.n > 1 else "one replicate"
        numbers = (f"{effect.mean:+.3g}", interval, _p(effect.corrected))
    return effect.label, str(effect.n), f"{effect.value:.4g}", *numbers, effect.verdict


def _far(found: Borne) -> tuple[str, ...]:
    label, n, _, *rest = _row(found.effect)
    far = (f"{'>= ' if place in found.at_end else ''}{x:.3g}" for place, x in found.largest.items())
    return label, n, ", ".join(far), *rest


def _exponents(slope: Slope) -> tuple[str, ...]:
    own, effect = slope.own, slope.effect
    interval = f"[{own.low:.2f}, {own.high:.2f}]" if own.n > 1 else "one replicate"
    compared = (f"{effect.mean:+.2f}", _p(effect.corrected)) if effect.mean == effect.mean else ("", "")
    zero = _p(slope.corrected), slope.verdict
    return effect.label, str(own.n), f"{own.mean:+.2f}", interval, *zero, *compared, effect.verdict


def _p(value: float) -> str:
    return f"{value:.2g}" if value == value else ""


def _outliers(grid: Grid, frame: pd.DataFrame, metric: Metric) -> list[str]:
    """Points far from the median of their variant."""
    places = {address: place for place, address in enumerate(frame["address"])}
    present = [point for point in grid.points if point.address in places]
    values = frame[metric.name].to_numpy()[[places[point.address] for point in present]]
    far = outliers(values, [without_replicate(grid, point) for point in present])
    found = [
        f"{grid.label(point.config)} {value:.4g}" for point, value, out in zip(present, values, far, strict=True) if out
    ]
    return [f"  outliers ({len(found)}): " + "; ".join(found)] if found else []


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


__all__ = ["shown", "shown_along", "shown_borne"]
