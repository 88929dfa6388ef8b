"""Whether a model is right as often as it says it is."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from gatescope.errors import Refusal

#: Bins of equal width; Guo et al. 2017 have 15.
BINS = 15


def expected_calibration_error(confidence: Float[Tensor, " n"], correct: Bool[Tensor, " n"], bins: int = BINS) -> float:
    """ECE: how far confidence and accuracy lie apart, bin by bin, weighted by how many predictions are in a bin.

        sum_b n_b / n |mean of correct in b - mean of confidence in b|,    b: confidence in (b / bins, (b + 1) / bins]

    Between 0 and 1; 0 where confidence is always 1 and nothing is wrong. A model that is calibrated perfectly has a
    value above 0 on a finite sample. Raises Refusal for nothing to judge, confidences outside [0, 1] and bins below 1.

    Source: Naeini et al. 2015; Guo et al. 2017, On Calibration of Modern Neural Networks, eq. 3.
    """
    if not len(confidence) or bins < 1:
        got = f"{len(confidence)} predictions, {bins} bins"
        raise Refusal("expected_calibration_error", "predictions and bins >= 1", got, "15 bins are usual")
    if not bool(((confidence >= 0) & (confidence <= 1)).all()):
        raise Refusal("expected_calibration_error", "confidences in [0, 1]", "others", "pass probabilities, not logits")
    place = (confidence.double() * bins).ceil().clamp(1, bins).long() - 1
    apart = torch.zeros(bins, dtype=torch.float64).index_add(0, place, correct.double() - confidence.double())
    return float(apart.abs().sum() / len(confidence))


def overconfidence(confidence: Float[Tensor, " n"], correct: Bool[Tensor, " n"]) -> float:
    """mean(confidence - correct): above 0 where a model promises more than it keeps. NaN of nothing."""
    return float((confidence.double() - correct.double()).mean())


def fit_temperature(logits: Float[Tensor, "n C"], labels: Int[Tensor, " n"]) -> float:
    """The temperature under which the labels are likeliest, between 0.05 and 20.

        argmin_T  -mean log softmax(logits / T)[label]

    It changes no prediction, only how sure it is. Raises Refusal for no labels.

    Source: Guo et al. 2017, section 4.2.
    """
    from scipy.optimize import minimize_scalar

    if not len(labels):
        raise Refusal("fit_temperature", "at least one labelled prediction", "none", "pass validation data")
    scores = logits.detach().double()

    def loss(log_temperature: float) -> float:
        return float(functional.cross_entropy(scores / math.exp(log_temperature), labels))

    found = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20.0)), method="bounded")
    return math.exp(float(found.x))


__all__ = ["BINS", "expected_calibration_error", "fit_temperature", "overconfidence"]
