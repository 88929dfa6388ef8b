"""What the kernels must give, in float64, and what they give when a step is forgotten."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def online_average(
    scores: Float[Tensor, "T S"], values: Float[Tensor, "S V"], block: int, flaw: str = ""
) -> Float[Tensor, "T V"]:
    """softmax(scores) values, a block of keys at a time with a running maximum; -inf scores are not seen.

    flaw  what goes wrong: "sum", "average" or "both" (not rescaled), "upside down" (rescaled by the inverse),
          "no division", "last" (only the last block counts), "padding" (the last block is filled up with scores of 0)
    """
    S = scores.shape[1]
    if flaw == "padding":
        scores = torch.nn.functional.pad(scores, (0, -S % block))
        values = torch.nn.functional.pad(values, (0, 0, 0, -S % block))
    top = torch.full_like(scores[:, :1], -torch.inf)
    total, acc = torch.zeros_like(top), torch.zeros(scores.shape[0], values.shape[1], dtype=scores.dtype)
    for start in range(0, scores.shape[1], block):
        part = scores[:, start : start + block]
        higher = torch.maximum(top, part.amax(1, keepdim=True))
        shrink = torch.where(torch.isinf(higher), 1.0, (top - higher).exp())
        if flaw == "upside down":
            shrink = torch.where(torch.isinf(top) | torch.isinf(higher), 1.0, (higher - top).exp())
        weight = torch.where(torch.isinf(part), 0.0, (part - higher).exp())
        if flaw == "last":
            total, acc = torch.zeros_like(total), torch.zeros_like(acc)
        total = total * (1 if flaw in ("sum", "both") else shrink) + weight.sum(1, keepdim=True)
        acc = acc * (1 if flaw in ("average", "both") else shrink) + weight @ values[start : start + block]
        top = higher
    return acc if flaw == "no division" else acc / total


def causal_scores(
    q: Float[Tensor, "T K"], k: Float[Tensor, "S K"], scale: float, ahead: int | None = 0
) -> Float[Tensor, "T S"]:
    """scale q k^T, and -inf where the key is more than ``ahead`` after the query; None masks nothing."""
    scores = scale * q @ k.T
    if ahead is None:
        return scores
    seen = torch.ones_like(scores, dtype=torch.bool).tril(ahead)
    return scores.masked_fill(~seen, -torch.inf)


def gated_in_the_loop(
    scores: Float[Tensor, "T S"],
    values: Float[Tensor, "S V"],
    gate: Float[Tensor, "T V"],
    rows: int,
    block: int,
    early: bool,
) -> Float[Tensor, "T V"]:
    """Attention whose running average is multiplied by the gate at every block of keys; ``early`` counts the blocks up
    to the last key that a tile of ``rows`` queries may see."""
    T, S = scores.shape
    top = torch.full_like(scores[:, :1], -torch.inf)
    total, acc = torch.zeros_like(top), torch.zeros_like(gate)
    ends = ((torch.arange(T) // rows + 1) * rows).clamp(max=S) if early else torch.full((T,), S)
    for start in range(0, S, block):
        part = scores[:, start : start + block]
        higher = torch.maximum(top, part.amax(1, keepdim=True))
        weight, shrink = (part - higher).exp(), (top - higher).exp()
        total = total * shrink + weight.sum(1, keepdim=True)
        moved = (acc * shrink + weight @ values[start : start + block]) * gate
        acc = torch.where((start < ends)[:, None], moved, acc * shrink)
        top = higher
    return acc / total
