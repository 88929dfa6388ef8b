"""The patients as they came in: short, plausible, and wrong. The cards of the clinic show these lines as they stand."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def row_entropy(entropy: Float[Tensor, ""], visible: int, length: int) -> Tensor:
    """Entropy of one row of attention as a share of what it can be."""
    return entropy / math.log(length)


def first_attention(first: Float[Tensor, " T"]) -> Tensor:
    """How much a head attends to the first token, from the first column of its attention."""
    return first.mean()


def mean_over_tokens(values: Float[Tensor, "B T"], text: Bool[Tensor, "B T"]) -> Tensor:
    """Mean of a number that every token has, over a padded batch."""
    return values.mean()


def first_attention_with_sink(scores: Float[Tensor, "T T"], sink: Float[Tensor, ""]) -> Tensor:
    """Attention to the first token of a head that has a learned sink, rows from the second."""
    weights = scores.softmax(-1)
    return weights[1:, 0].mean()


def router_entropy(router_logits: Float[Tensor, "N E"]) -> Tensor:
    """How undecided a router is, token by token, in nats."""
    p = router_logits.softmax(-1)
    return -(p * p.log()).sum(-1).mean()


def balance(p: Float[Tensor, "L N E"], choice: Int[Tensor, "L N"]) -> Tensor:
    """The balancing loss of all layers: 1 where the load is even."""
    E = p.shape[-1]
    load = torch.bincount(choice.flatten(), minlength=E) / choice.numel()
    return E * (load * p.flatten(0, 1).mean(0)).sum()


def dead_experts(choice: Int[Tensor, "batches N"], experts: int) -> Tensor:
    """How many experts nobody visits, mean over batches."""
    loads = torch.stack([torch.bincount(batch, minlength=experts) for batch in choice])
    return (loads == 0).sum(-1).double().mean()


def difference(a: Float[Tensor, " seeds"], b: Float[Tensor, " seeds"]) -> Tensor:
    """The mean difference of two variants over its standard error."""
    error = (a.var() / len(a) + b.var() / len(b)).sqrt()
    return (b.mean() - a.mean()) / error
