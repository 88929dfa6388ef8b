"""Hybrids of four layers: where the softmax layers sit, what a seed shares, and what is refused."""

from __future__ import annotations

import pytest
from gatescope.errors import Refusal
from gatescope.layers import AttentionSpec, LinearAttentionSpec
from gatescope.studies import expand, load
from gatescope.studies.points.hybrid_ratios import HybridRun, model_config, task_of, train_spec


@pytest.mark.parametrize(("full", "places"), [(0, ()), (1, (2,)), (2, (1, 3)), (3, (0, 2, 3))])
def test_softmax_layers_are_spread_evenly(full, places):
    run = HybridRun(kind="gla", full=full)
    mixers = model_config(run).mixers
    assert run.places == places
    assert tuple(layer for layer, mixer in enumerate(mixers) if isinstance(mixer, AttentionSpec)) == places


def test_the_control_is_softmax_throughout():
    assert all(isinstance(mixer, AttentionSpec) for mixer in model_config(HybridRun()).mixers)


def test_kinds_differ_in_decay_and_update_alone():
    found = {}
    for kind in ("gla", "scalar", "fixed", "delta"):
        mixer = model_config(HybridRun(kind=kind, full=0)).mixers[0]
        assert isinstance(mixer, LinearAttentionSpec)
        assert (mixer.key_dim, mixer.value_dim, mixer.convolution) == (8, 32, 4)
        found[kind] = (mixer.decay, mixer.update)
    assert found == {
        "gla": ("channel", "add"),
        "scalar": ("head", "add"),
        "fixed": ("fixed", "add"),
        "delta": ("head", "delta"),
    }


def test_answers_alone_are_scored_in_recall_and_every_byte_in_text():
    recall, text = HybridRun(seed=4), HybridRun(task="bytes", seed=4)
    assert (train_spec(recall).scored, train_spec(text).scored) == ("marked", "all")
    assert (task_of(recall).pairs, task_of(text).part) == (16, "train")
    assert model_config(text).vocab == 257


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "gla"}, "name the other layers"),
        ({"full": 2}, "name the other layers"),
        ({"kind": "gla", "full": 5}, "0 to 4 softmax layers"),
        ({"steps": 0}, "steps >= 1"),
    ],
)
def test_an_impossible_run_is_refused(fields, said):
    with pytest.raises(Refusal, match=said):
        HybridRun(**fields)


def test_every_ratio_is_measured_on_both_tasks():
    configs = [point.config for point in expand(load("hybrid-ratios")).points]
    for task in ("recall", "bytes"):
        own = {(config["kind"], config["full"]) for config in configs if config["task"] == task}
        assert own == {("softmax", 4)} | {(kind, full) for kind in ("gla", "scalar", "delta") for full in (0, 1, 2)}
