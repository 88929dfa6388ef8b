"""Gate activations: logit -> score. One row an activation; adding one is a function and a row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class GateActivation:
    """What turns a gate logit into a score. ``range`` is the interval of scores."""

    name: str
    equation: str
    apply: Callable[[Tensor], Tensor]
    range: tuple[float, float]
    source: str


def sigmoid(logit: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """sigma(x) = 1 / (1 + exp(-x)), in (0, 1)."""
    return torch.sigmoid(logit)


def non_sparse_sigmoid(logit: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """0.5 + 0.5 sigma(x), in (0.5, 1): a sigmoid that cannot close. Qiu et al. 2025's control for sparsity."""
    return 0.5 + 0.5 * torch.sigmoid(logit)


def silu(logit: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x sigma(x), in (-0.279, inf)."""
    return torch.nn.functional.silu(logit)


def tanh(logit: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """tanh(x), in (-1, 1): a gate that closes at a logit of 0 and can turn the sign."""
    return torch.tanh(logit)


def linear(logit: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x: a score without bound, the control for the activation itself."""
    return logit


_QIU = "Qiu et al. 2025, Gated Attention for Large Language Models"
_OURS = "this project, as controls"
_TABLE = (
    GateActivation("sigmoid", "1 / (1 + exp(-x))", sigmoid, (0.0, 1.0), _QIU),
    GateActivation("non_sparse_sigmoid", "0.5 + 0.5 / (1 + exp(-x))", non_sparse_sigmoid, (0.5, 1.0), _QIU),
    GateActivation("silu", "x / (1 + exp(-x))", silu, (-0.2784645, math.inf), _QIU),
    GateActivation("tanh", "tanh(x)", tanh, (-1.0, 1.0), _OURS),
    GateActivation("linear", "x", linear, (-math.inf, math.inf), _OURS),
)
ACTIVATIONS: dict[str, GateActivation] = {row.name: row for row in _TABLE}
