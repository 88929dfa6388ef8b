"""Calibration against a loop, its ends, and a temperature that is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gatescope.calibration import expected_calibration_error, fit_temperature, overconfidence
from gatescope.errors import Refusal


def drawn(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.rand(n, dtype=torch.float64, generator=generator)
    return confidence, torch.rand(n, dtype=torch.float64, generator=generator) < confidence**2


@pytest.mark.parametrize("bins", [1, 3, 15])
def test_ece_is_the_loop_over_bins(bins):
    confidence, correct = drawn(500)
    total = 0.0
    for b in range(bins):
        inside = [i for i in range(500) if b / bins < confidence[i] <= (b + 1) / bins]
        if inside:
            accuracy = np.mean([float(correct[i]) for i in inside])
            total += len(inside) / 500 * abs(accuracy - np.mean([float(confidence[i]) for i in inside]))
    assert expected_calibration_error(confidence, correct, bins) == pytest.approx(total, abs=1e-12)


def test_ece_at_its_ends():
    ones, nothing = torch.ones(9), torch.zeros(9)
    right = torch.ones(9, dtype=torch.bool)
    assert expected_calibration_error(ones, right) == 0
    assert expected_calibration_error(ones, ~right) == 1
    assert expected_calibration_error(nothing, right) == 1
    assert overconfidence(ones, ~right) == 1
    assert overconfidence(nothing, right) == -1


def test_a_bin_hides_what_cancels_in_it():
    confidence = torch.tensor([0.51, 0.59])
    correct = torch.tensor([True, False])
    assert expected_calibration_error(confidence, correct, 1) == pytest.approx(0.05, abs=1e-6)
    assert expected_calibration_error(confidence, correct, 20) > 0.4


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_spoilt_the_logits_is_found_again(temperature):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(20_000, 5, dtype=torch.float64, generator=generator)
    labels = torch.distributions.Categorical(logits=logits)
    torch.manual_seed(2)
    assert fit_temperature(logits * temperature, labels.sample()) == pytest.approx(temperature, rel=0.05)


def test_refusals():
    with pytest.raises(Refusal, match="bins >= 1, got 0 predictions"):
        expected_calibration_error(torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    with pytest.raises(Refusal, match="pass probabilities, not logits"):
        expected_calibration_error(torch.tensor([3.0]), torch.tensor([True]))
    with pytest.raises(Refusal, match="at least one labelled"):
        fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
