"""The normalisers: scores -> weights, and the potential whose gradient the weights are. Adding one is a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from gatescope.normalisers.entmax import entmax


@dataclass(frozen=True, slots=True)
class Normaliser:
    """A row of NORMALISERS.

    weights    (scores [*B n], parameter) -> weights [*B n]
    potential  (scores [*B n], parameter) -> numbers [*B] whose gradient by the scores the weights are
    parameter  what the one number means that the spec may set, "" where there is none
    default    its value where the spec sets none; None: it depends on the row
    sums_to    what the weights of a row sum to, in words
    """

    name: str
    equation: str
    weights: Callable[[Tensor, float | Tensor | None], Tensor]
    potential: Callable[[Tensor, float | Tensor | None], Tensor]
    sums_to: str
    source: str
    parameter: str = ""
    default: float | None = None


Parameter = float | Tensor | None
_Rows = Float[Tensor, "*B n"]


def _softmax(scores: _Rows, parameter: Parameter) -> _Rows:
    return scores.softmax(-1)


def _lse(scores: _Rows, parameter: Parameter) -> Float[Tensor, "*B"]:
    return scores.logsumexp(-1)


def _with_sink(scores: Tensor, sink: Parameter) -> Tensor:
    column = torch.as_tensor(sink, dtype=scores.dtype, device=scores.device)
    return torch.cat([scores, column.expand(*scores.shape[:-1], 1)], -1)


def _sink_softmax(scores: _Rows, sink: Parameter) -> _Rows:
    return _with_sink(scores, sink).softmax(-1)[..., :-1]


def _sink_lse(scores: _Rows, sink: Parameter) -> Float[Tensor, "*B"]:
    return _with_sink(scores, sink).logsumexp(-1)


def _entmax(scores: _Rows, alpha: Parameter) -> _Rows:
    return entmax(scores, _number(alpha))


def _entmax_potential(scores: _Rows, alpha: Parameter) -> Float[Tensor, "*B"]:
    # By the envelope theorem the weights may be held fixed: the gradient is then p itself.
    a, p = _number(alpha), entmax(scores, _number(alpha)).detach()
    tsallis = (p - p.pow(a)).sum(-1) / (a * (a - 1))
    return torch.where(p > 0, p * scores, 0).sum(-1) + tsallis


def _sparsemax(scores: _Rows, parameter: Parameter) -> _Rows:
    return entmax(scores, 2.0)


def _sparsemax_potential(scores: _Rows, parameter: Parameter) -> Float[Tensor, "*B"]:
    return _entmax_potential(scores, 2.0)


def _shifted(scores: Tensor, bias: Parameter) -> Tensor:
    """Scores plus the bias, by default -log of the number of scores of the row that are above -inf."""
    if bias is None:
        seen = (scores > -torch.inf).sum(-1, keepdim=True).clamp_min(1)
        return scores - seen.to(scores.dtype).log()
    return scores + torch.as_tensor(bias, dtype=scores.dtype, device=scores.device)


def _sigmoid(scores: _Rows, bias: Parameter) -> _Rows:
    return _shifted(scores, bias).sigmoid()


def _sigmoid_potential(scores: _Rows, bias: Parameter) -> Float[Tensor, "*B"]:
    return functional.softplus(_shifted(scores, bias)).sum(-1)


def _number(value: Parameter) -> float:
    return float(value) if value is not None else 1.5


_TABLE = (
    Normaliser("softmax", "exp(s_j) / sum_m exp(s_m)", _softmax, _lse, "1", "Bridle 1990"),
    Normaliser(
        "off_by_one",
        "exp(s_j) / (1 + sum_m exp(s_m))",
        lambda scores, _: _sink_softmax(scores, 0.0),
        lambda scores, _: _sink_lse(scores, 0.0),
        "below 1, towards 0 where all scores are low",
        "Miller 2023, Attention Is Off By One",
    ),
    Normaliser(
        "learned_sink",
        "exp(s_j) / (exp(sink) + sum_m exp(s_m))",
        _sink_softmax,
        _sink_lse,
        "below 1, by the share of the sink",
        "OpenAI 2025, gpt-oss",
        "logit of the sink",
        0.0,
    ),
    Normaliser(
        "sparsemax",
        "max(s_j - tau, 0)",
        _sparsemax,
        _sparsemax_potential,
        "1",
        "Martins and Astudillo 2016 (arXiv 1602.02068)",
    ),
    Normaliser(
        "entmax",
        "max((alpha - 1) s_j - tau, 0)^(1 / (alpha - 1))",
        _entmax,
        _entmax_potential,
        "1",
        "Peters, Niculae, Martins 2019 (arXiv 1905.05702)",
        "alpha, above 1",
        1.5,
    ),
    Normaliser(
        "sigmoid",
        "1 / (1 + exp(-s_j - b)), b = -log n unless set",
        _sigmoid,
        _sigmoid_potential,
        "anything from 0 to n: weights do not compete",
        "Ramapuram et al. 2024 (arXiv 2409.04431)",
        "bias b",
    ),
)
#: Name -> Normaliser.
NORMALISERS: dict[str, Normaliser] = {row.name: row for row in _TABLE}
