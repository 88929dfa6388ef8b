"""The start page: a row of attention at its ends, and the check on known mistakes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from gatescope_lessons.l00_start import checks
from gatescope_lessons.l00_start.lab import read_row
from gatescope_lessons.l00_start.panel import row_panel


@pytest.mark.parametrize(("first", "gate"), list(itertools.product((-4.0, 0.0, 8.0), (-6.0, 0.0, 6.0))))
def test_weights_sum_to_one_and_what_is_read_to_the_gate(first, gate) -> None:
    frame = read_row(first, gate)
    np.testing.assert_allclose(frame["weight"].sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(frame["read"].sum(), 1 / (1 + np.exp(-gate)), rtol=1e-12)
    np.testing.assert_allclose(frame["weight"][0], np.exp(first) / (np.exp(first) + 4), rtol=1e-12)


def test_the_panel_answers_at_the_ends_of_its_controls() -> None:
    panel = row_panel()
    for first, gate in itertools.product((panel.first.min, panel.first.max), (panel.gate.min, panel.gate.max)):
        panel.apply(first=first, gate=gate)
        assert panel.message == ""
        assert panel.frame().equals(read_row(first, gate))


@pytest.mark.parametrize(
    ("answer", "diagnosis"),
    [
        (lambda scores, gate: torch.sigmoid(torch.tensor(gate)) * scores.softmax(0), None),
        (lambda scores, gate: scores.softmax(0), "the gate is missing"),
        (lambda scores, gate: gate * scores.softmax(0), "through a sigmoid"),
        (lambda scores, gate: (torch.sigmoid(torch.tensor(gate)) * scores).softmax(0), "not the scores"),
        (lambda scores, gate: torch.sigmoid(torch.tensor(gate)) * torch.sigmoid(scores), "softmax of the row"),
    ],
)
def test_known_mistakes_are_named(answer, diagnosis, expect_diagnosis) -> None:
    expect_diagnosis(checks.gated_row, answer, diagnosis)
