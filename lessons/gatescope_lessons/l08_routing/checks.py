"""Checks of lesson 08. Each knows the mistakes people make and names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gatescope.layers.balancing import switch_loss as own_loss
from gatescope.layers.routers import dense_to_sparse as own_gate
from gatescope.probes._specialisation import mutual_information as own_information
from gatescope.taps import RouterScores

from gatescope_lessons.compare import compare
from gatescope_lessons.exercises import exercise

_LOGITS = torch.tensor(
    [[2.0, 0.3, -1.0, 0.1], [1.2, 1.1, 0.4, -2.0], [0.9, -0.3, 0.2, 0.5], [-1.0, 0.2, 1.9, 0.3], [1.5, 1.4, 1.3, -0.2]],
    dtype=torch.float64,
)


@exercise(
    hints=(
        "f: how many tokens chose each expert, over all tokens. P: the mean of p over tokens.",
        "f = torch.bincount(choice, minlength=E) / len(choice); P = p.mean(0).",
        "E * (f * P).sum()",
    ),
    afterword="1 where all is even, E where one expert has everything. f has no gradient; the router learns through P.",
)
def switch_loss(answer: Callable[..., Any]) -> str | None:
    """The balancing loss of Switch Transformers."""
    p = _LOGITS.softmax(-1)
    choice = p.argmax(-1)
    scores = RouterScores(_LOGITS[None], p[None], choice[None, :, None], torch.ones(1, 5, 1).double(), "softmax")
    f, P = torch.bincount(choice, minlength=4) / 5, p.mean(0)
    return compare(
        answer(p, choice),
        own_loss(scores),
        mistakes={
            "the factor E is missing: even routing should give 1": (f * P).sum(),
            "this is f with itself: no gradient reaches the router": 4 * (f * f).sum(),
            "this is P with itself: it does not know where tokens went": 4 * (P * P).sum(),
            "f counts tokens; divide by how many there are": 20 * (f * P).sum(),
            "P is the mean over tokens, this is the sum": 20 * (f * P).sum(),
            "the mean over experts is taken, the loss sums": (f * P).sum() * 4 / 4 / 4,
        },
    )


_LOAD = torch.tensor([90.0, 10.0, 0.0, 40.0, 60.0], dtype=torch.float64)
_BIAS = torch.tensor([0.05, 0.0, -0.02, 0.01, 0.0], dtype=torch.float64)


@exercise(
    hints=(
        "An expert above the mean load gets less bias, one below gets more.",
        "Only the sign counts, so that every step is equally long: torch.sign(load.mean() - load).",
        "bias + rate * torch.sign(load.mean() - load)",
    ),
    afterword="An expert that is exactly at the mean stays. The bias is no weight: it gets no gradient and gives none.",
)
def move_bias(answer: Callable[..., Any]) -> str | None:
    """One step of loss-free balancing."""
    toward = _LOAD.mean() - _LOAD
    return compare(
        answer(_BIAS.clone(), _LOAD.clone(), 0.01),
        _BIAS + 0.01 * toward.sign(),
        axes=("expert",),
        mistakes={
            "the sign is turned round: busy experts get even more": _BIAS - 0.01 * toward.sign(),
            "the step grows with the violation; the rule takes the sign alone": _BIAS + 0.01 * toward,
            "this is the step; add it to the bias there was": 0.01 * toward.sign(),
            "the step is a share of the mean load; the rule takes the sign alone": _BIAS + 0.01 * toward / _LOAD.mean(),
        },
    )


_T, _THRESHOLD = 0.5, 0.1


@exercise(
    hints=(
        "p = softmax(logits / temperature); the threshold looks at p.",
        "Set what is not above the threshold to 0: torch.where(p > threshold, p, 0.0).",
        "p = (logits / temperature).softmax(-1); return torch.where(p > threshold, p, 0.0)",
    ),
    afterword="How many are left differs from token to token: a sure router keeps one, an unsure one keeps several.",
)
def sparse_gate(answer: Callable[..., Any]) -> str | None:
    """Weights of the dense-to-sparse gate."""
    _, index, weight = own_gate(_LOGITS, temperature=_T, threshold=_THRESHOLD)
    right = torch.zeros_like(_LOGITS).scatter(1, index, weight)
    p, hot = (_LOGITS / _T).softmax(-1), (_LOGITS * _T).softmax(-1)
    cut = torch.where(p > _THRESHOLD, p, 0.0)
    plain = _LOGITS.softmax(-1)
    return compare(
        answer(_LOGITS, _T, _THRESHOLD),
        right,
        axes=("token", "expert"),
        mistakes={
            "nobody is left out: this is the dense softmax": p,
            "the logits are multiplied by the temperature; divide": torch.where(hot > _THRESHOLD, hot, 0.0),
            "the temperature is missing": torch.where(plain > _THRESHOLD, plain, 0.0),
            "the weights are renormalised; EvoMoE leaves them as they are": cut / cut.sum(-1, keepdim=True),
            "everybody below the threshold is kept instead": torch.where(p > _THRESHOLD, 0.0, p),
            "the threshold is applied to the logits": torch.where(_LOGITS > _THRESHOLD, p, 0.0),
        },
    )


_COUNTS = np.array([[40.0, 0.0, 2.0], [0.0, 30.0, 0.0], [0.0, 25.0, 3.0], [10.0, 0.0, 20.0]])


@exercise(
    hints=(
        "p = counts / counts.sum(); the margins are p.sum(1) of clusters and p.sum(0) of experts.",
        "Sum p log(p / (p_cluster p_expert)) over the places where p > 0.",
        "apart = np.outer(p.sum(1), p.sum(0)); seen = p > 0; (p[seen] * np.log(p[seen] / apart[seen])).sum()",
    ),
    afterword="Balance is a statement about p_expert alone. Specialisation is one about both: neither needs the other.",
)
def information(answer: Callable[..., Any]) -> str | None:
    """Mutual information of cluster and expert from a table of counts."""
    p = _COUNTS / _COUNTS.sum()
    log = np.log(np.where(p > 0, p, 1))
    joint, experts, clusters = -(p * log).sum(), _entropy(p.sum(0)), _entropy(p.sum(1))
    right = own_information(_COUNTS)
    return compare(
        answer(_COUNTS.copy()),
        right,
        mistakes={
            "this is the entropy of the load: it does not know the clusters": experts,
            "this is the entropy of the clusters": clusters,
            "this is the joint entropy": joint,
            "this is what the expert leaves open about the cluster": joint - experts,
            "bits, where nats are asked for": right / np.log(2),
            "the sign is turned round": -right,
            "the counts are not divided by their sum": right * _COUNTS.sum(),
        },
    )


def _entropy(p: np.ndarray) -> float:
    return float(-(p * np.log(p)).sum())
