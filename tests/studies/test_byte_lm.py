"""Byte models: variants of a seed differ in gate and sink alone, and an impossible one is refused."""

from __future__ import annotations

import pytest
import torch
from gatescope.errors import Refusal
from gatescope.models import TinyLM
from gatescope.studies import expand, load
from gatescope.studies.points.byte_lm import ByteRun, model_config


@pytest.mark.parametrize(
    "changes",
    [{"position": "sdpa"}, {"position": "sdpa", "granularity": "head"}, {"position": "output"}, {"sink": "learned"}],
)
def test_variants_of_one_seed_share_every_other_weight(changes):
    plain = TinyLM(model_config(ByteRun()), init_seed=3).state_dict()
    other = TinyLM(model_config(ByteRun(**changes)), init_seed=3).state_dict()
    assert all(torch.equal(value, other[name]) for name, value in plain.items())
    assert other.keys() - plain.keys()
    assert all("gate" in name or "sink" in name for name in other.keys() - plain.keys())


def test_sink_and_encoding_reach_the_attention():
    def attention(**changes: str):
        return model_config(ByteRun(**changes)).attention

    assert (attention().sink, attention().rope_theta) == (None, 10_000.0)
    assert attention(sink="off_by_one").sink == "off_by_one"
    assert attention(encoding="none").rope_theta is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"granularity": "head"}, "nothing said of the gate"),
        ({"position": "output", "granularity": "head"}, "an element-wise gate"),
        ({"lr": 0.0}, "lr > 0"),
        ({"steps": 0}, "steps >= 1"),
    ],
)
def test_an_impossible_run_is_refused(fields, said):
    with pytest.raises(Refusal, match=said):
        ByteRun(**fields)


def test_the_studies_ask_for_the_lengths_that_are_measured():
    from gatescope.bytewise import LENGTH, MULTIPLES

    asked = {label for metric in load("context-extrapolation").metrics for label in metric.at.values()}
    assert asked == {LENGTH * multiple for multiple in MULTIPLES[1:]}


def test_stability_has_every_rate_for_every_variant():
    points = expand(load("stability")).points
    rates = {point.config["lr"] for point in points}
    gates = {(point.config["position"], point.config["granularity"]) for point in points}
    assert (len(rates), len(gates), len(points)) == (4, 4, 4 * 4 * 3)
