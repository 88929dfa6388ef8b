"""One row of attention: scores to weights, and a gate on what is read."""

from __future__ import annotations

import pandas as pd
import torch

TOKENS = ("<s>", "the", "cat", "sat", "down")


def read_row(first: float, gate: float) -> pd.DataFrame:
    """What a head reads of five tokens when its query finds nothing: all scores alike, but for the first.

        weight = softmax(scores)          read = sigmoid(gate) weight

    first  score of the first token; all others score 0
    gate   logit of the gate

    Columns token, weight, read; the last two are shares.
    """
    scores = torch.zeros(len(TOKENS), dtype=torch.float64)
    scores[0] = first
    weight = scores.softmax(0)
    read = weight * torch.sigmoid(torch.tensor(gate, dtype=torch.float64))
    return pd.DataFrame({"token": TOKENS, "weight": weight.numpy(), "read": read.numpy()})
