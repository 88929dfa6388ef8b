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
class Work:
    """The least an op has to do: floating-point operations of its products, and bytes read and written once."""

    flops: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Production:
    """A size that the fused kernels are built for. The compile gate compiles what the op launches on it; the roofline
    reads its work."""

    case: Case
    dtype: torch.dtype
    forward: Work
    backward: Work | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """What the compiled form of one Triton kernel has to keep to, in every production; spills are never allowed.

    products   matrix products in it (tt.dot in its TTIR: a loop counts once, an unrolled one each time), each of
               which must run on tensor cores; more than one number where productions ask the kernel for more or less
    occupancy  by target, the least share of a multiprocessor's warps that can be resident, in percent
    """

    products: int | tuple[int, ...]
    occupancy: dict[str, int]


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
    unfused          names of cases that the fused kernels refuse
    fused_budget     ``budget`` of the fused kernels where they round intermediate results that others keep in fp32
    productions      sizes that the fused kernels are compiled for
    budgets          by name of a Triton kernel
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
    unfused: frozenset[str] = frozenset()
    fused_budget: dict[torch.dtype, float] = field(default_factory=dict)
    productions: tuple[Production, ...] = ()
    budgets: dict[str, Budget] = field(default_factory=dict)
