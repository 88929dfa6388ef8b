"""The gate atlas: its grid is that of the paper, its starts are fair, and an impossible gate is refused."""

from __future__ import annotations

import pytest
import torch
from gatescope.errors import Refusal
from gatescope.gates import ACTIVATIONS
from gatescope.studies import expand, load
from gatescope.studies.points.gate_atlas import ACTIVATION_NAMES, GateRun, gate_spec, start_bias
from gatescope.train import Training


@pytest.fixture(scope="module")
def study():
    return load("gate-atlas")


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
