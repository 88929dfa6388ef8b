"""What a row of the op table says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gatescope_kernels.bench import Contest


@dataclass(frozen=True, slots=True)
class Case:
    """One set of inputs: sizes by their letter in the legend, options by the op's own names.

    ``error_scale`` multiplies the budgets: exp(S) is only as exact as S, whose error grows with its magnitude.
    """

    name: str
    sizes: dict[str, int]
    options: dict[str, Any] = field(default_factory=dict)
    error_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Op:
    """A row. ``inputs(case, dtype, seed)`` makes keyword arguments, ``call(impl, inputs)`` runs and names the results.

    differentiable   arguments that carry gradients, where the case has them
    outputs          results by name; a case may lack some
    low_precision    results that keep the inputs' dtype; all others accumulate and stay in fp32
    budget           largest error by dtype, relative to the largest magnitude of the fp64 reference (at least 1)
    gradient_budget  the same for gradients
    implementations  names that ``call`` takes; "reference" is the oracle of the others
    contests         what `gatescope bench` times, by (device, quick)
    """

    name: str
    inputs: Callable[[Case, torch.dtype, int], dict[str, Any]]
    call: Callable[[str, dict[str, Any]], dict[str, Tensor]]
    cases: tuple[Case, ...]
    differentiable: tuple[str, ...]
    outputs: tuple[str, ...]
    low_precision: tuple[str, ...]
    budget: dict[torch.dtype, float]
    gradient_budget: dict[torch.dtype, float]
    implementations: tuple[str, ...]
    contests: Callable[[str, bool], Iterable[Contest]]
