"""The same metrics, sound: what the probes of the toolkit compute, in the few lines that a card has room for."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def row_entropy(entropy: Float[Tensor, ""], visible: int, length: int) -> Tensor:
    """H_i / log n_i, n_i the keys that row i can see."""
    return entropy / math.log(visible)


def first_attention(first: Float[Tensor, " T"]) -> Tensor:
    """mean over rows i >= 1 of A[i, 0] - 1 / (i + 1): what a head gives the first token beyond uniform attention."""
    visible = torch.arange(2, len(first) + 1)
    return (first[1:] - 1 / visible).mean()


def mean_over_tokens(values: Float[Tensor, "B T"], text: Bool[Tensor, "B T"]) -> Tensor:
    """The mean over tokens that are text."""
    return values[text].mean()


def first_attention_with_sink(scores: Float[Tensor, "T T"], sink: Float[Tensor, ""]) -> Tensor:
    """exp(score - LSE) with the sink as one more outcome of every row."""
    outcomes = torch.cat([scores, sink.expand(len(scores), 1)], dim=-1)
    return outcomes.softmax(-1)[1:, 0].mean()


def router_entropy(router_logits: Float[Tensor, "N E"]) -> Tensor:
    """-sum_e p_e log p_e; rows that are probabilities already stay as they are."""
    sums = router_logits.sum(-1)
    given = bool((router_logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)
    p = router_logits if given else router_logits.softmax(-1)
    return -torch.xlogy(p, p).sum(-1).mean()


def balance_by_layer(p: Float[Tensor, "L N E"], choice: Int[Tensor, "L N"]) -> Float[Tensor, " L"]:
    """E sum_e f_e P_e of every layer on its own."""
    E = p.shape[-1]
    load = torch.stack([torch.bincount(layer, minlength=E) for layer in choice]) / choice.shape[1]
    return E * (load * p.mean(1)).sum(-1)


def balance(p: Float[Tensor, "L N E"], choice: Int[Tensor, "L N"]) -> Tensor:
    """The balancing loss of the worst layer."""
    return balance_by_layer(p, choice).max()


def dead_experts(choice: Int[Tensor, "batches N"], experts: int) -> Tensor:
    """How many experts nobody visits in the whole window."""
    load = torch.bincount(choice.flatten(), minlength=experts)
    return (load == 0).sum().double()


def difference(a: Float[Tensor, " seeds"], b: Float[Tensor, " seeds"]) -> Tensor:
    """The mean difference of pairs of one seed over its standard error."""
    pairs = b - a
    return pairs.mean() / (pairs.var() / len(pairs)).sqrt()
