"""Weights: how sparse a model's parameters are, and in which pattern. No forward pass is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from gatescope_kernels import nm_valid
from torch import Tensor, nn

from gatescope.errors import NonFiniteError, Refusal
from gatescope.records import Quantity, new

_LECUN = "LeCun et al. 1989, Optimal Brain Damage; Han et al. 2015, Learning both Weights and Connections"
_HURLEY = "Hurley and Rickard 2009, Comparing Measures of Sparsity; Hoyer 2004"
_ZHOU = "Zhou et al. 2021, Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch"
_CONTINUOUS = "weights of a continuous distribution: 0"

#: What `weight_record` measures.
QUANTITIES = (
    Quantity(
        "weight_zeros",
        ("parameter",),
        "1",
        "share of weights that are zero",
        "share of w = 0 in the parameter",
        _LECUN,
        _CONTINUOUS,
    ),
    Quantity(
        "weight_zeros_layer",
        ("layer",),
        "1",
        "share of weights of the layer that are zero",
        "share of w = 0 over all parameters of the block",
        _LECUN,
        _CONTINUOUS,
    ),
    Quantity(
        "weight_zeros_global",
        (),
        "1",
        "share of all weights that are zero",
        "share of w = 0 over all parameters",
        _LECUN,
        _CONTINUOUS,
    ),
    Quantity(
        "weight_count",
        ("parameter",),
        "weights",
        "weights of the parameter",
        "number of w in the parameter",
        _LECUN,
        "none: a count",
    ),
    Quantity(
        "weight_hoyer",
        ("parameter",),
        "1",
        "Hoyer sparsity of weights",
        "(sqrt(n) - |w|_1 / |w|_2) / (sqrt(n) - 1), n weights of the parameter; NaN for n = 1 and where all are 0",
        _HURLEY,
        "normal weights: (1 - sqrt(2/pi)) sqrt(n) / (sqrt(n) - 1), 0.202 for large n",
    ),
    Quantity(
        "weight_nm",
        ("parameter", "pattern"),
        "1",
        "weights hold the N:M pattern",
        "1 if at most N of each M contiguous inputs of every row are not 0, else 0; NaN where the parameter is no "
        "matrix [F D] with D a multiple of M",
        _ZHOU,
        _CONTINUOUS,
    ),
)
_DEFINED = {quantity.name: quantity for quantity in QUANTITIES}
#: Patterns looked for: 2:4 is what sparse tensor cores multiply.
PATTERNS = ((1, 4), (2, 4), (4, 8), (8, 16))


def weight_record(model: nn.Module, patterns: Sequence[tuple[int, int]] = PATTERNS) -> xr.Dataset:
    """Zeros, Hoyer index and N:M validity of every parameter of ``model``, and zeros by layer and in all.

        zeros = share of w = 0,    Hoyer = (sqrt(n) - |w|_1 / |w|_2) / (sqrt(n) - 1)

    The layer of a parameter is the first number in its name ("blocks.3.mlp.up_proj.weight": 3), and its coordinate
    ``parameter_layer`` holds it, -1 for parameters outside the blocks. A parameter that two modules share counts once.
    Buffers do not count, and masks that are applied in the forward pass alone do not show.

    patterns  (N, M) to test; a matrix [F D] is tested along its inputs D, as torch.nn.Linear stores it

    Raises Refusal for a model without parameters or a pattern that is none, NonFiniteError for NaN or infinity.
    """
    parameters = dict(model.named_parameters())
    if not parameters:
        raise Refusal("weight_record", "a model with parameters", f"{type(model).__name__} without", "pass a model")
    for n, m in patterns:
        if not 1 <= n <= m:
            raise Refusal("weight_record", "patterns (N, M) with 1 <= N <= M", f"{(n, m)}", "pass (2, 4) for 2:4")
    layers = np.array([_layer(name) for name in parameters])
    rows = [_row(name, weight.detach(), patterns) for name, weight in parameters.items()]
    zeros, counts = (np.array([row[key] for row in rows]) for key in ("zeros", "count"))
    blocks = sorted(set(layers.tolist()) - {-1})
    by_block = [zeros[layers == block].sum() / counts[layers == block].sum() for block in blocks]
    labels = {
        "parameter": list(parameters),
        "layer": blocks,
        "pattern": [f"{n}:{m}" for n, m in patterns],
    }
    found: dict[str, tuple[Any, float | None]] = {
        "weight_zeros": (zeros / counts, 0.0),
        "weight_zeros_global": (zeros.sum() / counts.sum(), 0.0),
        "weight_count": (counts, None),
        "weight_hoyer": (np.array([row["hoyer"] for row in rows]), 1 - math.sqrt(2 / math.pi)),
    }
    if blocks:
        found["weight_zeros_layer"] = (np.array(by_block), 0.0)
    if patterns:
        found["weight_nm"] = (np.array([row["valid"] for row in rows]), 0.0)
    variables = {
        name: _DEFINED[name].variable(data, labels, baseline_value=baseline) for name, (data, baseline) in found.items()
    }
    record = new(variables, model=type(model).__name__)
    return record.assign_coords(parameter_layer=("parameter", layers))


def _row(name: str, weight: Tensor, patterns: Sequence[tuple[int, int]]) -> dict[str, Any]:
    if not weight.isfinite().all():
        raise NonFiniteError("weight_record", f"finite {name}", "NaN or infinity", "look for a step that diverged")
    n, flat = weight.numel(), weight.flatten()
    if not weight.is_floating_point():
        flat = flat.float()
    one, two = (float(torch.linalg.vector_norm(flat, order, dtype=_precise(flat))) for order in (1, 2))
    known = n > 1 and two > 0
    return {
        "zeros": n - int(weight.count_nonzero()),
        "count": n,
        "hoyer": (math.sqrt(n) - one / two) / (math.sqrt(n) - 1) if known else math.nan,
        "valid": [_valid(weight, *pattern) for pattern in patterns],
    }


def _valid(weight: Tensor, n: int, m: int) -> float:
    if weight.ndim != 2 or not weight.is_floating_point() or not weight.numel() or weight.shape[1] % m:
        return math.nan
    return float(nm_valid(weight, n, m))


def _precise(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64


def _layer(name: str) -> int:
    return next((int(part) for part in name.split(".") if part.isdigit()), -1)


__all__ = ["PATTERNS", "QUANTITIES", "weight_record"]
