"""How fast an error falls with the number of samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gatescope.errors import NonFiniteError, Refusal


def rate(sample_sizes: Sequence[int] | np.ndarray, errors: Sequence[float] | np.ndarray) -> float:
    """The slope of log error over log n by least squares: -0.5 is an error that falls as n^-1/2.

    Raises Refusal for fewer than two sizes or lengths that differ, NonFiniteError for an error that is NaN, infinite or
    not above 0.
    """
    n, values = np.asarray(sample_sizes, dtype=float), np.asarray(errors, dtype=float)
    if n.shape != values.shape or n.ndim != 1 or len(n) < 2:
        got = f"{n.shape} and {values.shape}"
        raise Refusal("rate", "two or more sizes and one error each", got, "measure more sizes")
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise NonFiniteError("rate", "errors above 0", str(values.tolist()), "a logarithm needs them")
    return float(np.polyfit(np.log(n), np.log(values), 1)[0])
