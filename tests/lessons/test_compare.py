"""A wrong answer is told in the words of the mistake that made it."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
import xarray as xr
from gatescope.errors import NonFiniteError, Refusal
from gatescope_lessons.compare import compare

P = np.tril(np.arange(1.0, 17.0).reshape(4, 4))
P /= P.sum(-1, keepdims=True)
ROW = np.array([3.0, 1.0, 4.0])


def changed(place, value):
    array = P.copy()
    array[place] = value
    return array


DIAGNOSES = {
    "nothing returned": (None, P, "got None; did you forget `return`"),
    "text": ("0.3", P, "got a str"),
    "ragged": ([[1.0], [1.0, 2.0]], P, "got a list"),
    "another shape": (P[:3], P, re.escape("wanted shape (4, 4), got (3, 4)")),
    "transposed, other shape": (P[:3].T, P[:3], "the oracle transposed"),
    "transposed, square": (P.T, P, "the oracle transposed"),
    "axis left over": (ROW[:, None], ROW, "an axis of length 1 is left over"),
    "axis missing": (ROW, ROW[:, None], "an axis of length 1 is missing"),
    "mean not taken": (P, P.mean(0), "take the mean over axis 0"),
    "sum not taken": (P, P.sum(1), "take the sum over axis 1"),
    "booleans": (P > 0.3, P, "wanted real numbers, got booleans"),
    "whole numbers": (np.zeros((4, 4), dtype=int), P, "wanted real numbers, got whole numbers"),
    "NaN": (changed((1, 1), math.nan), P, re.escape("nan at query 1, key 1 (1 of 16 places)")),
    "infinite": (changed((0, 3), -math.inf), P, "-inf at query 0, key 3"),
    "sign": (-P, P, "sign is the opposite"),
    "not scaled": (8.0 * P, P, re.escape("factor 8 = sqrt(64), and head_dim is 64: did you scale")),
    "scaled twice": (P / 8.0, P, re.escape("factor 0.125 = 1/sqrt(64), and head_dim is 64")),
    "summed, not averaged": (64.0 * P, P, re.escape("factor 64 = 64, and head_dim is 64")),
    "another root": (math.sqrt(48) * P, P, re.escape("= sqrt(48): did you scale")),
    "bits": (P / math.log(2), P, "nats"),
    "nats": (P * math.log(2), P, re.escape("= ln 2")),
    "offset": (P + 0.25, P, re.escape("constant offset +0.25")),
    "the future": (
        P + np.triu(np.full((4, 4), 0.1), 1) * np.arange(4),
        P,
        re.escape("above the diagonal (the future)"),
    ),
    "the diagonal": (P + np.diag([0.1, 0.2, 0.1, 0.3]), P, "on the diagonal"),
    "the first row": (changed(0, [0.3, 0.2, 0.1, 0.9]), P, "only query 0 differs"),
    "one place": (
        changed((2, 1), 0.9),
        P,
        re.escape("first differs at query 2, key 1: wanted 0.3333, got 0.9 (1 of 16 places, by 0.567 at most)"),
    ),
    "a number": (2.0, 3.0, "first differs here: wanted 3, got 2"),
    "a number not scaled": (24.0, 3.0, re.escape("sqrt(64)")),
}


@pytest.mark.parametrize(("answer", "oracle", "told"), DIAGNOSES.values(), ids=DIAGNOSES)
def test_a_mistake_is_named(answer, oracle, told):
    assert re.search(told, compare(answer, oracle, axes=("query", "key"), sizes={"head_dim": 64}))


@pytest.mark.parametrize(
    "answer",
    [P, P.tolist(), torch.tensor(P), torch.tensor(P, dtype=torch.float32), xr.DataArray(P), P + 1e-8],
    ids=["numpy", "list", "torch", "torch float32", "xarray", "rounding"],
)
def test_the_right_answer_has_nothing_wrong(answer):
    assert compare(answer, P) is None
    assert compare(P, answer) is None


def test_a_tensor_that_needs_gradients_is_read():
    assert compare(torch.tensor([1.0], requires_grad=True), [1.0]) is None


def test_infinite_oracles_match_and_differ():
    masked = np.where(P > 0, P, -np.inf)
    assert compare(masked, masked) is None
    assert "first differs" in compare(P, masked)


def test_a_known_mistake_comes_first_and_never_condemns_the_right_answer():
    mistakes = {"row 0 is counted; it is 1 whatever the model does": P[:, 0].mean()}
    right = P[1:, 0].mean()
    assert compare(P[:, 0].mean(), right, mistakes=mistakes) == next(iter(mistakes))
    assert compare(right, right, mistakes={"same": right}) is None


def test_a_wrong_scalar_without_a_known_origin_is_no_factor():
    assert "factor" not in compare(1.234, 0.77)


@pytest.mark.parametrize(("oracle", "error"), [("text", Refusal), ([1.0, math.nan], NonFiniteError)])
def test_an_unusable_oracle_is_the_authors_error(oracle, error):
    with pytest.raises(error, match="correct the check"):
        compare(P, oracle)
