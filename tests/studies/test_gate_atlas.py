"""The gate atlas: every point possible, the whole code named, fair starts, and a point that is the same twice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import xarray as xr
from gatescope.errors import Refusal
from gatescope.gates import ACTIVATIONS
from gatescope.studies import expand, load
from gatescope.studies.gather import reduced
from gatescope.studies.points.gate_atlas import ACTIVATION_NAMES, GateRun, gate_spec, measure, start_bias
from gatescope.train import Training

STEPS = 2
RUNS = [
    GateRun(steps=STEPS),
    GateRun(steps=STEPS, position="sdpa", activation="non_sparse_sigmoid"),
    GateRun(steps=STEPS, position="value", granularity="head", sharing="shared", n_heads=2, activation="silu"),
    GateRun(steps=STEPS, position="output", combine="add", activation="linear"),
    GateRun(steps=STEPS, position="query", source="none", activation="tanh"),
    GateRun(steps=STEPS, position="key"),
]
#: They carry numbers and make none.
BOOKKEEPING = ("gatescope.records.", "gatescope.specs")


@pytest.fixture(scope="module")
def study():
    return load("gate-atlas")


@pytest.fixture(scope="module")
def measured():
    """The records of RUNS, and every module of ours that was executed for them when nothing was new any more."""
    again = [measure(run) for run in RUNS]
    executed: set[str] = set()

    def note(frame: object, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            executed.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        found = [measure(run) for run in RUNS]
    finally:
        sys.setprofile(None)
    return found, again, executed


def test_the_grid_covers_the_table_of_the_paper(study):
    grid = expand(study)
    assert grid.impossible == ()
    configs = [point.config for point in grid.points]
    variants = {repr({key: value for key, value in config.items() if key != "seed"}) for config in configs}
    assert len(variants) >= 30
    assert len(configs) == 5 * len(variants)
    for field, wanted in (
        ("position", {"none", "sdpa", "value", "key", "query", "output"}),
        ("granularity", {"element", "head"}),
        ("sharing", {"per_head", "shared"}),
        ("activation", set(ACTIVATION_NAMES)),
        ("combine", {"multiply", "add"}),
        ("source", {"token", "none"}),
    ):
        assert {config[field] for config in configs} == wanted
    rates = {config["lr"] for config in configs}
    whole = {repr((c["position"], c["granularity"])) for c in configs if c["lr"] != 5e-3}
    assert (len(rates), len(whole)) == (3, 4)


def test_every_gate_has_a_control_measured_at_the_same_rate_and_heads(study):
    configs = [point.config for point in expand(study).points]
    controls = {tuple(c[axis] for axis in (*study.match, "seed")) for c in configs if c["position"] == "none"}
    assert all(tuple(config[axis] for axis in (*study.match, "seed")) in controls for config in configs)


def test_the_study_names_all_the_code_that_a_point_executes(study, measured, root):
    _, _, executed = measured
    modules = {
        ".".join(Path(path).relative_to(base).with_suffix("").parts)
        for base in (root / "toolkit", root / "kernels")
        for path in executed
        if Path(path).is_relative_to(base)
    }
    assert {name for name in modules if not name.startswith(BOOKKEEPING)} - set(study.code) == set()
    assert len(modules) > 30


def test_a_point_is_a_pure_function_with_every_metric(study, measured):
    found, again, _ = measured
    for run, record, other in zip(RUNS, found, again, strict=True):
        xr.testing.assert_identical(record, other)
        joined = record.expand_dims("point")
        for metric in study.metrics:
            if metric.variable.startswith("gate_") and run.position == "none":
                assert metric.variable not in record
                continue
            assert reduced(metric, joined).shape == (1,)


def test_activations_are_those_of_the_table():
    assert set(ACTIVATION_NAMES) == set(ACTIVATIONS)


@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_multiplied_gates_start_nearly_open_and_added_ones_at_nothing(activation):
    def score(combine: str) -> float:
        return float(ACTIVATIONS[activation].apply(torch.tensor(start_bias(activation, combine))))

    assert score("multiply") == pytest.approx(torch.sigmoid(torch.tensor(2.0)).item(), abs=1e-6)
    if activation not in ("sigmoid", "non_sparse_sigmoid"):
        assert score("add") == 0
    assert start_bias("sigmoid", "multiply") == pytest.approx(2.0)


def test_all_gates_of_one_seed_share_every_other_weight():
    def weights(run: GateRun) -> dict[str, torch.Tensor]:
        from gatescope.binding import TASK
        from gatescope.recipes import bigram_config, bigram_train_spec

        config = bigram_config(gate=gate_spec(run), n_heads=run.n_heads)
        return Training(config, TASK, bigram_train_spec(run.seed)).model.state_dict()

    plain = weights(GateRun(seed=4))
    for position in ("sdpa", "value", "key", "query", "output"):
        gated = weights(GateRun(position=position, seed=4))
        assert all(torch.equal(value, gated[name]) for name, value in plain.items())
        assert all("gate" in name for name in gated.keys() - plain.keys())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"position": "none", "granularity": "head"}, "nothing said of the gate"),
        ({"position": "output", "granularity": "head"}, "an element-wise gate"),
        ({"position": "sdpa", "sharing": "shared"}, "2 heads or more"),
        ({"n_heads": 3}, "an even share of 64 channels"),
        ({"n_heads": 0}, "an even share of 64 channels"),
    ],
)
def test_an_impossible_gate_is_refused(fields, said):
    with pytest.raises(Refusal, match=said):
        GateRun(**fields)
