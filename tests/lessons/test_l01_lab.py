"""Lesson 01: the experiment against what it must show, the metrics on planted records, the checks on known mistakes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr
from gatescope.errors import Refusal
from gatescope.models.smollm2 import load_smollm2
from gatescope.reading import read_text
from gatescope.tasks.text import TEXTS
from gatescope_lessons.l01_where_attention_goes import checks, lab
from gatescope_lessons.papers import load_claims
from gatescope_lessons.verdicts import judge

CLAIMS = [claim for claim in load_claims() if claim.lesson == "l01_where_attention_goes"]
N_TEXTS, N_LAYERS, N_HEADS = 6, 4, 3


@pytest.fixture(scope="module")
def pretrained():
    return load_smollm2()


@pytest.fixture(scope="module")
def measured(pretrained):
    return lab.measure_text(pretrained, TEXTS["dialogue"].text)


def test_the_record_of_a_text_agrees_with_its_own_interventions(measured):
    nll = measured.nll.to_series()
    assert nll["zero massive"] > nll["full"] + 3 > nll["zero random"] + 2.5
    assert nll["window 32, 0 sinks"] > nll["window 32, 4 sinks"] > nll["full"] - 0.05
    assert measured.first_attention_repeated < measured.first_attention.mean()


def test_the_massive_site_is_where_the_rule_is_first_met(pretrained):
    record = read_text(pretrained, "The old clock in the hall struck nine.")
    layer, dim = lab.massive_site(record)
    magnitude = record.magnitude.sel(layer=layer)
    assert float(magnitude.max()) == float(magnitude.sel(dim=dim).max()) > 100
    assert (record.massive_count.sel(layer=slice(0, layer - 1)) == 0).all()
    assert record.piece.values[0] == "The"


def test_a_record_without_massive_activations_says_what_it_has(measured):
    tame = measured.assign(massive_count=measured.massive_count * 0)
    with pytest.raises(Refusal, match=r"wanted a block with an activation above 100.*got at most \d+ times"):
        lab.massive_site(tame)


@pytest.mark.parametrize(("text", "wanted"), [("", "text"), ("   ", "text"), ("word " * 3000, "at most")])
def test_bad_text_is_refused_in_words(pretrained, text, wanted):
    with pytest.raises(Refusal, match=wanted):
        read_text(pretrained, text)


def planted(opposite: bool) -> xr.Dataset:
    """A record in which every claim of the lesson holds clearly, or its opposite does; texts differ a little."""
    texts = np.arange(N_TEXTS)
    wobble = 1 + 0.01 * texts
    ratio = (50.0 if opposite else 9000.0) * wobble
    first = (0.005 if opposite else 0.4) * wobble
    full = 2.5 * wobble
    losses = {
        "full": full,
        "zero massive": full + (0.1 if opposite else 8.0) * wobble,
        "zero random": full + (2.0 if opposite else 0.01) * wobble,
        "window 32, 0 sinks": full + (-0.5 if opposite else 1.5) * wobble,
        "window 32, 4 sinks": full + (-0.9 if opposite else 0.05) * wobble,
        "window 64, 1 sinks": full + (0.01 if opposite else 0.3) * wobble,
        "window 64, 4 sinks": full + (0.2 if opposite else 0.1) * wobble,
    }
    by_layer = ("text", "layer")
    per_layer = np.ones((N_TEXTS, N_LAYERS))
    # The opposite has its largest value on another token, and in a dimension that changes from layer to layer.
    dims = 7 + (np.arange(N_LAYERS) + texts[:, None] if opposite else 0 * per_layer)
    return xr.Dataset(
        {
            "massive_ratio": (by_layer, ratio[:, None] * per_layer),
            "massive_count": (by_layer, per_layer),
            "top_token": ((*by_layer, "rank"), (per_layer * (3 if opposite else 0))[..., None]),
            "top_dim": ((*by_layer, "rank"), dims[..., None]),
            "first_attention": ((*by_layer, "head"), first[:, None, None] * np.ones((N_TEXTS, N_LAYERS, N_HEADS))),
            "sink_share": (
                (*by_layer, "head", "chosen"),
                ((0.05 if opposite else 0.6) * wobble)[:, None, None, None] * np.ones((N_TEXTS, N_LAYERS, N_HEADS, 1)),
            ),
            "value_drain": (
                (*by_layer, "kv_head"),
                ((2.0 if opposite else 0.2) * wobble)[:, None, None] * np.ones((N_TEXTS, N_LAYERS, 1)),
            ),
            "uniform_attention": ("text", 0.03 * np.ones(N_TEXTS)),
            "first_attention_repeated": ("text", (0.05 if opposite else 0.02) * wobble),
            "nll": (("text", "setting"), np.stack(list(losses.values()), axis=1)),
        },
        coords={"setting": list(losses), "chosen": [0]},
    )  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_is_shown_by_its_own_record_and_contradicted_by_the_opposite(claim):
    metric = lab.METRICS[claim.terms.metric]
    assert judge(metric(planted(opposite=False)), claim.terms).outcome == "shown"
    assert judge(metric(planted(opposite=True)), claim.terms).outcome == "contradicted"


def test_every_metric_belongs_to_a_claim():
    assert set(lab.METRICS) == {claim.terms.metric for claim in CLAIMS}


_LOG_T = math.log(12)
MISTAKES = [
    (checks.first_attention, lambda q, k, lse, s: (s * q @ k[0] - lse).exp()[1:].mean(), None),
    (checks.first_attention, lambda q, k, lse, s: (s * q @ k[0] - lse).exp().mean(), "row 0 is counted"),
    (checks.first_attention, lambda q, k, lse, s: (q @ k[0] - lse).exp()[1:].mean(), "scale 1/sqrt(K) is missing"),
    (checks.first_attention, lambda q, k, lse, s: (s * q @ k[0] - lse)[1:].mean(), "take exp"),
    (checks.first_attention, lambda q, k, lse, s: (s * q @ k[0] - lse).exp()[1:], "take their mean"),
    (checks.normalised_entropy, lambda h: h[1:] / torch.arange(2, len(h) + 1).log(), None),
    (checks.normalised_entropy, lambda h: h[1:] / _LOG_T, "divided by log T"),
    (checks.normalised_entropy, lambda h: h / torch.arange(1, len(h) + 1).log(), "row 0 is still there"),
    (checks.normalised_entropy, lambda h: h[1:] / torch.arange(2, len(h) + 1), "entropy over n keys is log n"),
    (checks.massive_activations, lambda h: [(0, 7), (0, 30)], None),
    (checks.massive_activations, lambda h: [(7, 0), (30, 0)], "your pairs are (dim, token)"),
    (checks.massive_activations, lambda h: [(0, 7)], "take .abs() first"),
    (checks.massive_activations, lambda h: (h.abs() > 100 * h.abs().median()).nonzero().tolist(), "100 times the"),
    (checks.massive_activations, lambda h: 3, "wanted pairs"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "answer", "diagnosis"), MISTAKES)
def test_checks_name_the_mistake(check, answer, diagnosis, expect_diagnosis):
    expect_diagnosis(check, answer, diagnosis)


@pytest.mark.parametrize(("answer", "status", "said"), [
    (2, "passed", "did not vanish"),
    (0, "not yet", "the one you hid"),
    (1, "not yet", "token 1 receives 0.100"),
    (9, "not yet", "there are 4 tokens"),
    ("the", "not yet", "whole number"),
    (..., "not attempted", ""),
])  # fmt: skip
def test_the_new_sink_is_checked_against_the_record(answer, status, said):
    mass = np.array([np.nan, 0.1, 0.7, 0.2])[None, None]
    masked = xr.Dataset({"key_mass": (("layer", "head", "token"), mass)})
    result = checks.where_the_sink_went(answer, masked)
    assert result.status == status
    assert said in result.detail
