"""Balancing rules: the Switch loss against transformers' own, the bias against its definition, and what both do."""

from __future__ import annotations

import pytest
import torch
from gatescope.errors import Refusal
from gatescope.layers import AuxiliaryLoss, Balancer, BiasUpdate, MoESpec
from gatescope.layers.balancing import load_of, switch_loss
from gatescope.models.routed import RoutedRegressor
from gatescope.taps import RouterScores, attached
from gatescope.tasks.clusters import GaussianClusters
from gatescope_kernels import route

SPEC = MoESpec(experts=6, k=1, hidden=8, renormalise=False, balancing="bias", init_std=0.3)


def scores_of(k: int, seed: int = 0, kind: str = "softmax") -> RouterScores:
    logits = torch.randn(2, 25, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    index, weight = route(logits.flatten(0, 1), k, kind=kind)
    p = logits.softmax(-1) if kind == "softmax" else logits.sigmoid()
    return RouterScores(logits, p, index.view(2, 25, k), weight.view(2, 25, k), kind)


@pytest.mark.parametrize("k", [1, 2, 6])
def test_the_loss_is_that_of_transformers(k, require):
    require("transformers")
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    scores = scores_of(k)
    theirs = load_balancing_loss_func((scores.logits.flatten(0, 1),), num_experts=6, top_k=k)
    # Mixtral sums over the k choices what Switch Transformers average.
    assert switch_loss(scores) == pytest.approx(float(theirs) / k)


def test_the_loss_is_1_where_all_is_even_and_e_where_one_has_everything():
    even = torch.zeros(1, 6, 6, dtype=torch.float64)
    index = torch.arange(6).view(1, 6, 1)
    ones = torch.ones(1, 6, 1, dtype=torch.float64)
    assert switch_loss(RouterScores(even, even.softmax(-1), index, ones, "softmax")) == pytest.approx(1)
    alone = torch.full((1, 6, 6), -50.0, dtype=torch.float64)
    alone[..., 2] = 50
    scores = RouterScores(alone, alone.softmax(-1), torch.full_like(index, 2), ones, "softmax")
    assert switch_loss(scores) == pytest.approx(6)


def test_choices_of_weight_0_are_no_load():
    scores = scores_of(2)
    scores.weight[..., 1] = 0
    assert load_of(scores).sum() == 50
    assert torch.equal(load_of(scores), torch.bincount(scores.index[..., 0].flatten(), minlength=6).double())


def trained(rule, steps: int = 60):
    task, model = GaussianClusters(dim=6, clusters=6), RoutedRegressor(SPEC, 6, init_seed=1)
    optimizer, balancer = torch.optim.Adam(model.parameters(), lr=3e-3), Balancer(model, rule)
    with attached(model, balancer):
        for step in range(steps):
            x, y, _ = task.batch((0, step), 128)
            loss = (model(x) - y).square().mean() + balancer.loss()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            balancer.step()
    kept: list[RouterScores] = []
    balancer = Balancer(model, None)
    balancer.edit = lambda site, layer, value: kept.append(value) or value
    with attached(model, balancer):
        model(task.batch(99, 2000)[0])
    load = load_of(kept[0])
    return model, float(load.max() / load.mean() - 1)


def test_both_rules_even_the_load_and_no_rule_does_not():
    _, none = trained(None)
    with_loss, loss = trained(AuxiliaryLoss(0.3))
    with_bias, bias = trained(BiasUpdate(0.02))
    assert loss < 0.7 * none
    assert bias < 0.7 * none
    assert not with_loss.experts.bias.any()
    assert with_bias.experts.bias.any()


def test_the_bias_moves_by_its_definition_and_carries_no_gradient():
    model, x = RoutedRegressor(SPEC, 6), torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    balancer = Balancer(model, BiasUpdate(0.25))
    with attached(model, balancer):
        model(x)
        assert balancer.loss() == 0
        load = torch.bincount(route(model.experts.router(x), 1)[0].flatten(), minlength=6).float()
        balancer.step()
    torch.testing.assert_close(model.experts.bias, 0.25 * torch.sign(load.mean() - load))
    assert "experts.bias" not in dict(model.named_parameters())


def test_a_balancer_without_its_model_says_so():
    model = RoutedRegressor(MoESpec(4, 1, 8), 6)
    with pytest.raises(Refusal, match="layers with balancing='bias'"):
        Balancer(model, BiasUpdate())
    with pytest.raises(Refusal, match="a model with MoE layers, got Linear"):
        Balancer(torch.nn.Linear(2, 2), None)
    with pytest.raises(Refusal, match="a forward pass since the last step"):
        Balancer(model, AuxiliaryLoss()).loss()
    with pytest.raises(Refusal, match="weight >= 0"):
        AuxiliaryLoss(-1.0)
    with pytest.raises(Refusal, match="rate > 0"):
        BiasUpdate(0.0)
