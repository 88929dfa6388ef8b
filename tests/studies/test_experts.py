"""The study of experts: widths are what its comment says, a point is a run of lesson 08, the impossible is refused."""

from __future__ import annotations

import pytest
from gatescope.clustered import ClusterTraining, Recipe, look
from gatescope.errors import Refusal
from gatescope.layers import AuxiliaryLoss, BiasUpdate
from gatescope.studies import expand, load
from gatescope.studies.points.experts import ExpertsRun, measure


@pytest.mark.parametrize(
    ("balancing", "rule"), [("none", None), ("loss", AuxiliaryLoss(0.01)), ("bias", BiasUpdate(1e-3))]
)
def test_a_point_is_a_run_of_the_lesson(balancing, rule):
    run = ClusterTraining(Recipe(k=2, rule=rule), 3, steps=12, every=0).run()
    assert measure(ExpertsRun(k=2, balancing=balancing, steps=12, seed=3)).identical(look(run.model))


def test_experts_and_their_channels_are_those_of_the_run():
    run = ClusterTraining(Recipe(k=4, experts=16, hidden=8), steps=1, every=0)
    experts = run.model.experts
    assert experts.w_up.shape == (16, 16, 8)
    record = measure(ExpertsRun(k=4, experts=16, steps=1))
    assert record.sizes["expert"] == 16
    assert float(record.experts_visited.squeeze()) == 4


def test_the_dense_limit_has_an_even_load_and_specialises_in_nothing():
    record = measure(ExpertsRun(experts=4, k=4, steps=2))
    assert float(record.load_violation.squeeze()) == 0
    assert float(record.group_information.squeeze()) == pytest.approx(0, abs=1e-12)


def test_one_grid_holds_all_channels_and_the_other_those_of_a_token():
    configs = [point.config for point in expand(load("experts")).points]
    whole = {(c["experts"], c["k"]) for c in configs if c["width"] == 128}
    assert whole == {(experts, k) for experts in (4, 8, 16) for k in (1, 2, 4)}
    assert {c["k"] * c["width"] // c["experts"] for c in configs if c["width"] != 128} == {16}
    diagonal = [(4, 1), (8, 2), (16, 4)]
    assert len({128 * k // experts for experts, k in diagonal}) == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"k": 9}, "k among them, got experts=8, k=9"),
        ({"k": 0}, "k among them"),
        ({"experts": 1}, "two experts or more"),
        ({"width": 100}, "share evenly"),
        ({"width": 4}, "share evenly"),
        ({"experts": 4, "k": 4, "balancing": "bias"}, "no balancing where every expert"),
        ({"steps": 0}, "steps >= 1"),
    ],
)
def test_impossible_experts_are_refused(fields, said):
    with pytest.raises(Refusal, match=said):
        ExpertsRun(**fields)
