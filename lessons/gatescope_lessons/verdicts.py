"""From measured effects and terms written beforehand to a verdict: one pure function."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
from gatescope.errors import NonFiniteError, Refusal
from gatescope.intervals import t_interval

Direction = Literal["less", "greater"]
Replicate = Literal["seed", "text"]
Outcome = Literal["shown", "not shown at this scale", "contradicted", "not measured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What will count as showing a claim, written before anything is measured.

    direction   where the effect must lie, seen from ``null``
    null        the effect if the claim were void: 1 for a ratio, 0 for a difference
    margin      how far past ``null`` the mean effect must lie
    replicates  the smallest number of independent repetitions, at least 3
    replicate   what is repeated
    metric      name of the function in the lesson's METRICS that turns a record into effects

    Raises Refusal for values outside these lists.
    """

    direction: Direction
    null: float | int
    margin: float | int
    replicates: int
    replicate: Replicate
    metric: str

    def __post_init__(self) -> None:
        for field, allowed in (("direction", get_args(Direction)), ("replicate", get_args(Replicate))):
            if getattr(self, field) not in allowed:
                raise Refusal("Terms", f"{field} in {allowed}", repr(getattr(self, field)), "choose one of them")
        if not (math.isfinite(self.null) and math.isfinite(self.margin) and self.margin >= 0):
            got = f"null={self.null}, margin={self.margin}"
            raise Refusal("Terms", "a finite null and a margin of 0 or more", got, "the direction already has the sign")
        if self.replicates < 3:
            raise Refusal(
                "Terms", "3 replicates or more", str(self.replicates), "two points have no spread to speak of"
            )

    def digest(self) -> str:
        """sha256 of the terms; a record carries it, so that terms changed after measuring are seen."""
        values = asdict(self) | {"null": float(self.null), "margin": float(self.margin)}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome with the mean effect, its 95 % interval and the number of replicates; ``reason`` says why.

    ``effect``, ``low`` and ``high`` are None when not measured.
    """

    outcome: Outcome
    n: int
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""


def judge(effects: Sequence[float] | np.ndarray, terms: Terms) -> Verdict:
    """The verdict on a claim from one effect a replicate.

    *shown*          every replicate lies past the null in the claimed direction, the mean passes it by the margin, and
                     the 95 % interval of the mean excludes it
    *contradicted*   every replicate lies past the null in the opposite direction and the interval excludes it
    *not measured*   fewer replicates than the terms demand
    *not shown at this scale*  anything else

    The interval is Student's t: mean ± t(0.975, n - 1) s / sqrt(n). With the three to five replicates of a lesson a
    bootstrap percentile interval can never leave the range of the sample (three values have ten distinct resampled
    means) and is far too narrow; t pays for the small n (4.3 standard errors at n = 3) at the price of assuming effects
    that are roughly normal. The demand on every replicate holds without that assumption.

    Raises Refusal when effects are not one-dimensional, NonFiniteError when one is NaN or infinite.
    """
    values = np.asarray(effects, dtype=float)
    if values.ndim != 1:
        raise Refusal(
            f"metric {terms.metric}", "a 1-D array, one effect a replicate", f"shape {values.shape}", "reduce it"
        )
    if not np.isfinite(values).all():
        raise NonFiniteError(f"metric {terms.metric}", "finite effects", str(values.tolist()), "look at the record")
    n = len(values)
    if n < terms.replicates:
        wanted = f"{terms.replicates} {terms.replicate}s"
        return Verdict("not measured", n, reason=f"{n} of {wanted}" if n else f"no effects; the terms want {wanted}")
    sign = 1.0 if terms.direction == "greater" else -1.0
    past = sign * (values - terms.null)
    mean, low, high = t_interval(values)
    excludes = not low <= terms.null <= high
    if (past > 0).all() and past.mean() >= terms.margin and excludes:
        outcome, reason = "shown", f"all {n} past {terms.null:g}, the mean by {past.mean():.3g}"
    elif (past < 0).all() and excludes:
        outcome, reason = "contradicted", f"all {n} on the other side of {terms.null:g}"
    else:
        outcome, reason = "not shown at this scale", _shortfall(past, terms, excludes)
    return Verdict(outcome, n, mean, low, high, reason)


def _shortfall(past: np.ndarray, terms: Terms, excludes: bool) -> str:
    reasons = []
    if (wrong := int((past <= 0).sum())) and len(past):
        reasons.append(f"{wrong} of {len(past)} not past {terms.null:g}")
    if past.mean() < terms.margin:
        reasons.append(f"mean past it by {past.mean():.3g}, margin {terms.margin:g}")
    if not excludes:
        reasons.append(f"interval holds {terms.null:g}")
    return "; ".join(reasons)
