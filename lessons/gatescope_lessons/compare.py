"""Compare an answer with its oracle and say what is wrong in the words of someone who has seen the mistake before."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gatescope.errors import NonFiniteError, Refusal

if TYPE_CHECKING:
    from torch import Tensor


def drawn(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers in float64, the same for the same ``seed``: what an answer is tried on."""
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def compare(
    answer: object,
    oracle: object,
    *,
    rtol: float = 1e-4,
    atol: float = 1e-6,
    axes: Sequence[str] = (),
    mistakes: Mapping[str, object] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> str | None:
    """The first thing wrong with ``answer``, or None when it is ``oracle`` within ``atol + rtol |oracle|``.

    Takes numbers, sequences, numpy arrays, torch tensors and xarray arrays.

    axes      what each axis of the oracle counts, for "first differs at query 3, key 2"
    mistakes  wrong values that a known misunderstanding gives, under the sentence that explains it:
              {"row 0 is counted; it is 1 whatever the model does": wrong}
    sizes     numbers that a scale factor may come from: {"head_dim": 64}

    Told apart, in this order: not numbers, a known mistake, shape (transposed, an axis kept or lost), kind of dtype,
    NaN, transposed, sign, a constant factor (and its likely origin), a constant offset, the region that differs, the
    first place that differs. Raises Refusal when the oracle is no array of numbers, NonFiniteError when it holds NaN.
    """
    wanted = _array(oracle)
    if wanted is None:
        raise Refusal("compare", "an oracle made of numbers", type(oracle).__name__, "correct the check")
    if np.isnan(wanted).any():
        raise NonFiniteError("compare", "an oracle without NaN", "NaN", "correct the check")
    got = _array(answer)
    if got is None:
        kind = "None; did you forget `return`?" if answer is None else f"a {type(answer).__name__}"
        return f"wanted numbers of shape {wanted.shape}, got {kind}"

    def same(left: Any, right: np.ndarray) -> bool:
        return np.shape(left) == right.shape and np.allclose(left, right, rtol=rtol, atol=atol)

    for sentence, value in (mistakes or {}).items():
        wrong = _array(value)
        if wrong is not None and same(got, wrong) and not same(wrong, wanted):
            return sentence
    if got.shape != wanted.shape:
        return _shape_diagnosis(got, wanted, same)
    if _numbers(got) != _numbers(wanted):
        return f"wanted {_numbers(wanted)}, got {_numbers(got)} (dtype {got.dtype})"
    if same(got, wanted):
        return None
    if not np.isfinite(got[np.isfinite(wanted)]).all():
        bad = ~np.isfinite(got) & np.isfinite(wanted)
        return f"{got[bad][0]} {_place(bad, axes)} ({_count(bad)}): a logarithm or a division of zero?"
    differs = np.asarray(~np.isclose(got, wanted, rtol=rtol, atol=atol))
    return _pattern(got, wanted, same, sizes or {}) or _first_difference(got, wanted, differs, axes)


_Same = Callable[[Any, np.ndarray], bool]


def _array(value: object) -> np.ndarray | None:
    if hasattr(value, "detach"):  # a torch tensor, without importing torch
        tensor: Any = value
        tensor = tensor.detach().cpu()
        value = tensor.double() if tensor.is_floating_point() else tensor
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return None
    return array if array.dtype.kind in "biuf" else None


def _numbers(array: np.ndarray) -> str:
    return {"b": "booleans", "i": "whole numbers", "u": "whole numbers", "f": "real numbers"}[array.dtype.kind]


def _shape_diagnosis(got: np.ndarray, wanted: np.ndarray, same: _Same) -> str:
    said = f"wanted shape {wanted.shape}, got {got.shape}"
    if got.ndim >= 2 and same(np.swapaxes(got, -1, -2), wanted):
        return f"{said}: your result is the oracle transposed; swap the last two axes"
    if np.squeeze(got).shape == np.squeeze(wanted).shape:
        return f"{said}: an axis of length 1 is {'left over' if got.ndim > wanted.ndim else 'missing'}"
    if got.ndim == wanted.ndim + 1:
        for axis in range(got.ndim):
            for name, reduced in (("mean", got.mean(axis)), ("sum", got.sum(axis))):
                if same(reduced, wanted):
                    return f"{said}: take the {name} over axis {axis}"
    return said


def _pattern(got: np.ndarray, wanted: np.ndarray, same: _Same, sizes: Mapping[str, int]) -> str | None:
    """A mistake that explains every difference at once."""
    if got.dtype.kind == "b" or not np.isfinite(wanted).all():
        return None
    if got.ndim >= 2 and same(np.swapaxes(got, -1, -2), wanted):
        return "your result is the oracle transposed; swap the last two axes"
    if same(-got, wanted):
        return "the sign is the opposite"
    scaled = np.abs(wanted) > 0
    factor = float(np.median(got[scaled] / wanted[scaled])) if scaled.any() else 0.0
    if factor and same(got / factor, wanted):
        origin = _origin(factor, sizes)
        if got.size > 1 or origin:  # every single number is some factor of every other
            return f"your result differs by a constant factor {factor:.4g}{origin}"
    offset = float(np.median(got - wanted))
    if got.size > 1 and same(got - offset, wanted):
        return f"your result differs by a constant offset {offset:+.4g}"
    return None


def _origin(factor: float, sizes: Mapping[str, int]) -> str:
    def near(value: float | int) -> bool:
        return math.isclose(factor, value, rel_tol=1e-3)

    for name, size in sizes.items():
        origins = {f"sqrt({size})": size**0.5, f"1/sqrt({size})": size**-0.5, f"{size}": size, f"1/{size}": 1 / size}
        for spelled, value in origins.items():
            if near(value):
                return f" = {spelled}, and {name} is {size}: did you scale?"
    if near(math.log(2)) or near(1 / math.log(2)):
        return (
            " = " + ("ln 2" if factor < 1 else "1/ln 2") + ": natural logarithms give nats, logarithms of base 2 bits"
        )
    square = factor**2 if factor > 1 else factor**-2
    if factor > 0 and 2 <= round(square) <= 4096 and math.isclose(square, round(square), rel_tol=1e-3):
        root = f"sqrt({round(square)})"
        return f" = {root if factor > 1 else f'1/{root}'}: did you scale?"
    return ""


def _first_difference(got: np.ndarray, wanted: np.ndarray, differs: np.ndarray, axes: Sequence[str]) -> str:
    first = tuple(np.argwhere(differs)[0])
    largest = np.abs(got[differs].astype(float) - wanted[differs].astype(float)).max()
    return (
        f"{_region(differs, axes)}first differs {_place(differs, axes)}: wanted {wanted[first]:.4g}, "
        f"got {got[first]:.4g} ({_count(differs)}, by {largest:.3g} at most)"
    )


def _region(differs: np.ndarray, axes: Sequence[str]) -> str:
    """Where all differences lie, when that place has a name."""
    if differs.ndim >= 2 and differs.shape[-1] == differs.shape[-2] > 1:
        above = np.triu(np.ones(differs.shape[-2:], dtype=bool), k=1)
        for place, name in (
            (above, "above the diagonal (the future)"),
            (np.eye(len(above), dtype=bool), "on the diagonal"),
        ):
            if not (differs & ~place).any():
                return f"only places {name} differ; "
    for axis, length in enumerate(differs.shape):
        if length > 1 and not np.delete(differs, 0, axis).any():
            return f"only {_axis(axis, axes)} 0 differs; "
    return ""


def _place(where: np.ndarray, axes: Sequence[str]) -> str:
    first = np.argwhere(where)[0]
    return (
        ("at " + ", ".join(f"{_axis(axis, axes)} {index}" for axis, index in enumerate(first)))
        if len(first)
        else "here"
    )


def _axis(axis: int, axes: Sequence[str]) -> str:
    return axes[axis] if axis < len(axes) else f"axis {axis}"


def _count(where: np.ndarray) -> str:
    return f"{int(where.sum())} of {where.size} places"
