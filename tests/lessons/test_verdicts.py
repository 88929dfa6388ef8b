"""Verdicts follow from effects and terms alone; the opposite record is contradicted, a null record is not shown."""

from __future__ import annotations

import math

import numpy as np
import pytest
from gatescope.errors import NonFiniteError, Refusal
from gatescope_lessons.verdicts import Terms, judge
from hypothesis import given
from hypothesis import strategies as st

RATIO = {"direction": "less", "null": 1.0, "margin": 0.5, "replicates": 3, "replicate": "seed", "metric": "ratio"}

CASES = {
    "clearly shown": ([0.30, 0.28, 0.35], "shown"),
    "opposite": ([1.6, 1.9, 1.7], "contradicted"),
    "null": ([0.97, 1.04, 1.01], "not shown at this scale"),
    "right direction, below the margin": ([0.80, 0.82, 0.81], "not shown at this scale"),
    "one replicate on the other side": ([0.1, 0.1, 0.1, 1.01], "not shown at this scale"),
    "all past, interval too wide": ([0.05, 0.1, 0.98], "not shown at this scale"),
    "opposite, interval too wide": ([1.01, 1.02, 9.0], "not shown at this scale"),
    "opposite, but one": ([1.6, 1.7, 0.9], "not shown at this scale"),
    "no spread": ([0.4, 0.4, 0.4], "shown"),
    "exactly at the null": ([1.0, 1.0, 1.0], "not shown at this scale"),
    "too few": ([0.3, 0.3], "not measured"),
    "none": ([], "not measured"),
}


@pytest.mark.parametrize(("effects", "outcome"), CASES.values(), ids=CASES)
def test_the_rule(effects, outcome):
    verdict = judge(effects, Terms(**RATIO))
    assert verdict.outcome == outcome
    assert verdict.n == len(effects)
    assert verdict.reason


@pytest.mark.parametrize(("effects", "outcome"), CASES.values(), ids=CASES)
def test_the_rule_mirrored(effects, outcome):
    mirrored = Terms(**RATIO | {"direction": "greater", "null": -1.0})
    assert judge([-effect for effect in effects], mirrored).outcome == outcome


def test_the_interval_is_students_t():
    verdict = judge([0.2, 0.3, 0.4], Terms(**RATIO))
    assert verdict.effect == pytest.approx(0.3)
    assert verdict.high - verdict.effect == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    assert verdict.effect - verdict.low == pytest.approx(verdict.high - verdict.effect)


def test_not_shown_says_what_is_lacking():
    reason = judge([0.7, 0.9, 1.2], Terms(**RATIO)).reason
    assert reason == "1 of 3 not past 1; mean past it by 0.0667, margin 0.5; interval holds 1"


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=12), st.sampled_from(["less", "greater"]))
def test_a_claim_and_its_opposite_are_never_both_shown(effects, direction):
    other = "greater" if direction == "less" else "less"
    outcomes = {judge(effects, Terms(**RATIO | {"direction": side})).outcome for side in (direction, other)}
    assert outcomes != {"shown"}
    if judge(effects, Terms(**RATIO | {"direction": direction})).outcome == "shown":
        assert judge(effects, Terms(**RATIO | {"direction": other})).outcome == "contradicted"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_effects_that_are_no_numbers_raise(bad):
    with pytest.raises(NonFiniteError, match="metric ratio"):
        judge([0.1, bad, 0.1], Terms(**RATIO))


def test_effects_have_one_axis():
    with pytest.raises(Refusal, match="one effect a replicate"):
        judge(np.ones((3, 2)), Terms(**RATIO))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"margin": -0.1}, "a margin of 0 or more"),
        ({"null": math.nan}, "a finite null"),
        ({"replicates": 2}, "3 replicates or more"),
    ],
)
def test_bad_terms_are_refused(change, told):
    with pytest.raises(Refusal, match=told):
        Terms(**RATIO | change)


CHANGES = [
    {"direction": "greater"},
    {"null": 0.0},
    {"margin": 0.4},
    {"replicates": 4},
    {"replicate": "text"},
    {"metric": "x"},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_term_is_in_the_digest(change):
    assert Terms(**RATIO | change).digest() != Terms(**RATIO).digest()


def test_the_digest_is_of_the_values_not_of_their_spelling():
    assert Terms(**RATIO | {"null": 1}).digest() == Terms(**RATIO).digest()
    assert len(Terms(**RATIO).digest()) == 64
