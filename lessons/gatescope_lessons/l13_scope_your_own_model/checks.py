"""Checks of lesson 13. Each knows the mistakes people make and names them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from gatescope_lessons.compare import compare
from gatescope_lessons.exercises import exercise

_E, _K = 6, 2


def _probabilities() -> torch.Tensor:
    """[T E] of a router that is sure of some tokens and not of others, with an expert it all but never names."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(9, _E, generator=generator, dtype=torch.float64) * torch.linspace(0.2, 4, 9)[:, None]
    logits[:, 5] -= 30
    return logits.softmax(-1)


@exercise(
    hints=(
        "First the entropy of every token: -sum_e p_e log p_e. Then the mean over tokens.",
        "The largest entropy over E experts is log E, when all are alike. Divide by it.",
        "-(torch.special.xlogy(p, p)).sum(-1).mean() / math.log(p.shape[-1]); xlogy is 0 where p is 0",
    ),
    afterword="0 is a router that has made up its mind for every token, 1 one that knows nothing.",
)
def router_entropy(answer: Callable[..., Any]) -> str | None:
    """Entropy of a router, token by token, as a share of log E."""
    p = _probabilities()
    nats = -torch.special.xlogy(p, p).sum(-1)
    load = p.mean(0)
    wrong = answer(torch.eye(_E, dtype=torch.float64)) if callable(answer) else None
    if wrong is not None and not math.isfinite(float(torch.as_tensor(wrong).sum())):
        return "NaN for a router that is certain: 0 log 0 is 0; torch.special.xlogy(p, p) knows that"
    return compare(
        answer(p),
        nats.mean() / math.log(_E),
        axes=("token",),
        mistakes={
            "these are nats; divide by the largest value they can take, log E": nats.mean(),
            "divided by log k: the router has an opinion on all E experts, not on the k chosen": (
                nats.mean() / math.log(_K)
            ),
            "this is one value a token; take their mean": nats / math.log(_E),
            "this is the entropy of the mean probabilities: how even the *load* is. A router may be certain of every "
            "token and load all experts alike; take the entropy of each token first": (
                -torch.special.xlogy(load, load).sum() / math.log(_E)
            ),
            "divided by E; the largest entropy of E experts is log E": nats.mean() / _E,
        },
    )
