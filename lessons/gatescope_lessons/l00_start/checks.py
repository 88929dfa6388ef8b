"""The check of the start page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gatescope_lessons.compare import compare
from gatescope_lessons.exercises import exercise

_SCORES = torch.tensor([2.0, 0.0, -1.0, 0.5], dtype=torch.float64)
_GATE = -1.0


@exercise(
    hints=(
        "Two steps: softmax over the scores, then the gate times the result.",
        "The gate is sigmoid(gate), one number between 0 and 1 that multiplies all weights alike.",
        "torch.sigmoid(torch.as_tensor(gate)) * scores.softmax(0)",
    ),
    afterword="Softmax must give out all of its weight; the gate lets the head read nothing at all.",
)
def gated_row(answer: Callable[..., Any]) -> str | None:
    """What a head reads of a row: sigmoid(gate) softmax(scores)."""
    weight, gate = _SCORES.softmax(0), torch.tensor(_GATE, dtype=torch.float64)
    return compare(
        answer(_SCORES, _GATE),
        torch.sigmoid(gate) * weight,
        mistakes={
            "these are the weights of softmax; the gate is missing": weight,
            "the gate must go through a sigmoid first": gate * weight,
            "the gate multiplies what softmax gives, not the scores: softmax makes the sum 1 again": (
                torch.sigmoid(gate) * _SCORES
            ).softmax(0),
            "you used sigmoid on every score; the weights are the softmax of the row": torch.sigmoid(gate)
            * torch.sigmoid(_SCORES),
        },
    )
