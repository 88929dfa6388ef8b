"""The one interval this project quotes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def t_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """(mean, low, high): the mean with its 95 % interval by Student's t, in the unit of ``values`` [n].

        mean ± t(0.975, n - 1) s / sqrt(n)

    With one value low and high are NaN: one run has no spread. Source: Student 1908, The Probable Error of a Mean.
    """
    from scipy.special import stdtrit  # here, because every lesson imports this module and few need it at once

    array = np.asarray(values, dtype=float)
    n, mean = len(array), float(array.mean())
    if n < 2:
        return mean, float("nan"), float("nan")
    half = float(stdtrit(n - 1, 0.975) * array.std(ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half
