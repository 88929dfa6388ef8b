"""Exits, gates and thresholds: against loops an input, the sub-network, and what they would be without each part."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gatescope.errors import Refusal
from gatescope.layers.exit_objective import JointObjective, uniform_loss
from gatescope.layers.exits import (
    ExitRule,
    Exits,
    ExitSpec,
    evidence,
    exit_costs,
    exit_probabilities,
    first_exit,
    threshold_at,
)
from gatescope.models import Classifier, ClassifierConfig
from gatescope.models.exiting import ExitingClassifier, mean_cost
from torch.utils.flop_counter import FlopCounterMode

B, X, C = 40, 3, 5
RULES = [
    ExitRule(threshold=0.5),
    ExitRule(threshold=0.6),
    ExitRule(score="confidence", threshold=0.4),
    ExitRule(score="confidence", threshold=0.4, temperatures=(0.5, 1.5, 2.0, 0.7)),
]


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def model_of(hidden: tuple[int, ...] = (6, 7, 8, 9)) -> ExitingClassifier:
    """Weights large enough that exits disagree, and gates that say something."""
    model = ExitingClassifier(Classifier(ClassifierConfig(inputs=4, hidden=hidden, classes=C), init_seed=1)).double()
    with torch.no_grad():
        for place, weight in enumerate(model.exits.parameters()):
            weight.copy_(0.7 * rand(*weight.shape, seed=place))
    return model


def test_evidence_is_what_numpy_says():
    logits = 3 * rand(B, C)
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    ranked = np.sort(p, 1)[:, ::-1]
    q = p**2 / (p**2).sum(1, keepdims=True)
    wanted = [ranked[:, 0], -(p * np.log(p)).sum(1), ranked[:, 0] - ranked[:, 1], -(q * np.log(q)).sum(1)]
    np.testing.assert_allclose(evidence(logits).numpy(), np.stack(wanted, 1), atol=1e-12)
    assert evidence(rand(3, 1)).tolist() == [[1.0, 0.0, 1.0, 0.0]] * 3


def test_exit_probabilities_are_the_loop_and_sum_to_one():
    gate_logits = 2 * rand(B, X)
    p = exit_probabilities(gate_logits)
    for row, g in zip(p, gate_logits.sigmoid(), strict=True):
        left, spent = 1.0, 0.0
        for place in range(X):
            here = max(0.0, min(float(g[place]), 1 - spent))
            assert float(row[place]) == pytest.approx(here, abs=1e-12)
            spent += float(g[place])
            left -= here
        assert float(row[-1]) == pytest.approx(left, abs=1e-12)
    independent = torch.cat([torch.ones(B, 1, dtype=torch.float64), (1 - gate_logits.sigmoid()).cumprod(1)], 1)
    assert float((p[:, -1] - independent[:, -1]).abs().max()) > 0.01


@torch.no_grad()
@pytest.mark.parametrize("rule", RULES)
def test_the_first_exit_is_found_one_input_at_a_time(rule):
    model, logits = model_of(), model_of()(rand(B, 4))
    left = model.leave(logits, rule)
    for place in range(B):
        spent, exit_at = 0.0, X
        for exit_ in range(X):
            scores = logits[place, exit_] / (rule.temperatures[exit_] if rule.temperatures else 1.0)
            if rule.score == "confidence":
                score = float(scores.softmax(-1).max())
            else:
                g = float(model.exits.gates[exit_](evidence(logits[place, exit_])).sigmoid())
                score = max(0.0, min(g, 1 - spent)) / (1 - spent) if spent < 1 else 1.0
                spent = min(1.0, spent + g)
            if score > rule.threshold:
                exit_at = exit_
                break
        assert int(left.exit[place]) == exit_at
        temperature = rule.temperatures[exit_at] if rule.temperatures else 1.0
        torch.testing.assert_close(left.logits[place], logits[place, exit_at] / temperature)
    assert len(left.exit.unique()) > 1


@torch.no_grad()
@pytest.mark.parametrize("rule", RULES)
def test_stopping_gives_what_computing_everything_gives_and_costs_what_it_says(rule):
    model, inputs = model_of(), rand(B, 4)
    with FlopCounterMode(display=False) as counter:
        ran = model.run(inputs, rule)
    whole = model.leave(model(inputs), rule)
    assert torch.equal(ran.exit, whole.exit)
    torch.testing.assert_close(ran.logits, whole.logits)
    # With confidence no gate is asked: eight operations less for each exit on the way.
    gates = 0 if rule.score == "gate" else 8 * float((ran.exit.clamp(max=X - 1) + 1).double().mean())
    assert counter.get_total_flops() / B == pytest.approx(mean_cost(ran, model.costs) - gates)


@torch.no_grad()
def test_a_network_left_at_an_exit_is_the_network_that_ends_there():
    model, inputs = model_of(), rand(B, 4)
    left = model.run(inputs, ExitRule(score="confidence", threshold=0.0))
    first = model.exits.heads[0](model.backbone.layers[0](inputs).relu())
    torch.testing.assert_close(left.logits, first)
    last = model.run(inputs, ExitRule(score="confidence", threshold=1.0))
    torch.testing.assert_close(last.logits, model.backbone(inputs))


@pytest.mark.parametrize("score", ["gate", "confidence"])
def test_thresholds_at_their_ends(score):
    model, inputs = model_of(), rand(B, 4)
    assert (model.run(inputs, ExitRule(score=score, threshold=0.0)).exit == 0).all()
    assert (model.run(inputs, ExitRule(score=score, threshold=1.0)).exit == X).all()


def test_one_exit_alone_works():
    model = model_of(hidden=(6, 9))
    assert model(rand(3, 4)).shape == (3, 2, C)
    assert len(model.costs) == 2
    assert set(model.run(rand(B, 4), ExitRule(threshold=0.5)).exit.tolist()) <= {0, 1}


def test_costs_add_what_was_passed():
    assert exit_costs([10, 20, 30], [1, 2, 3]) == (11, 33, 66)
    model = model_of(hidden=(6, 9))
    assert model.costs == (2 * 4 * 6 + 2 * 6 * C + 8, 2 * 4 * 6 + 2 * 6 * C + 8 + 2 * 6 * 9 + 2 * 9 * C)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
def test_a_budget_is_kept_and_used_up(share):
    scores, costs = rand(B, X).sigmoid(), (1.0, 2.0, 4.0, 8.0)
    budget = costs[0] + share * (costs[-1] - costs[0])
    price = torch.tensor(costs, dtype=torch.float64)

    def cost(threshold: float) -> float:
        return float(price[first_exit(scores, threshold)].mean())

    found = threshold_at(scores, costs, budget)
    assert cost(found) <= budget + 1e-9
    above = [float(s) for s in scores.flatten() if float(s) > found]
    assert not above or cost(min(above)) > budget


def test_the_joint_losses_are_a_loop_over_inputs():
    logits, labels = 2 * rand(B, X + 1, C), torch.arange(B) % C
    gate_logits, costs = rand(B, X, seed=1), (1.0, 2.0, 3.0, 5.0)
    objective = JointObjective(trade=0.7, costs=costs)
    gates, inference = objective.losses(logits, gate_logits, labels)
    losses = -np.log(np.take_along_axis(_softmax(logits.numpy()), labels.numpy()[:, None, None], 2)[..., 0])
    target = (losses + 0.7 * np.array(costs) / 5).argmin(1)
    assert objective.target(torch.from_numpy(losses)).tolist() == target.tolist()
    assert len(set(target)) > 2
    wanted = (target[:, None] <= np.arange(X)).astype(float)
    weight = np.minimum((1 - wanted.mean(0)) / wanted.mean(0), 5)
    g = 1 / (1 + np.exp(-gate_logits.numpy()))
    bce = -(wanted * np.log(g) * weight + (1 - wanted) * np.log(1 - g))
    np.testing.assert_allclose(gates.numpy(), bce.mean(1), rtol=1e-10)
    p = exit_probabilities(gate_logits).numpy()
    np.testing.assert_allclose(inference.numpy(), (p[:, :-1] * losses[:, :-1]).sum(1), rtol=1e-10)
    np.testing.assert_allclose(uniform_loss(logits, labels).numpy(), losses[:, :-1].mean(1), rtol=1e-10)


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_each_loss_moves_its_own_weights_and_the_backbone_none():
    model, labels = model_of(), torch.arange(B) % C
    logits = model(rand(B, 4))
    gates, inference = JointObjective(trade=0.3, costs=model.costs).losses(
        logits, model.exits.gate_logits(logits[:, :-1]), labels
    )
    gates.mean().backward(retain_graph=True)
    assert all(head.weight.grad is None for head in model.exits.heads)
    assert all(float(gate.weight.grad.abs().sum()) > 0 for gate in model.exits.gates)
    before = [gate.weight.grad.clone() for gate in model.exits.gates]
    inference.mean().backward()
    assert all(torch.equal(gate.weight.grad, old) for gate, old in zip(model.exits.gates, before, strict=True))
    assert float(model.exits.heads[0].weight.grad.abs().sum()) > 0
    assert all(weight.grad is None for weight in model.backbone.parameters())


def test_jointly_weighted_modules_differ_from_those_that_learn_alike():
    """Against the baseline: an exit that nobody takes learns nothing jointly, and as much as any other alike."""
    model, labels = model_of(), torch.arange(B) % C
    with torch.no_grad():
        model.exits.gates[0].bias.fill_(50.0)
    logits = model(rand(B, 4))
    _, inference = JointObjective(trade=0.3, costs=model.costs).losses(
        logits, model.exits.gate_logits(logits[:, :-1]), labels
    )
    inference.mean().backward(retain_graph=True)
    assert [bool(head.weight.grad.abs().sum() > 1e-9) for head in model.exits.heads] == [True, False, False]
    model.zero_grad()
    uniform_loss(logits, labels).mean().backward()
    assert all(bool(head.weight.grad.abs().sum() > 1e-9) for head in model.exits.heads)


@torch.no_grad()
def test_a_gate_decides_otherwise_than_any_threshold_on_confidence():
    """Against the named baseline: gates weigh evidence by exit; no one threshold gives the same exits."""
    model, logits = model_of(), model_of()(rand(200, 4))
    gated = model.leave(logits, ExitRule(threshold=0.5)).exit
    scores = ExitRule(score="confidence").scores(model.exits, logits[:, :-1])
    apart = [int((first_exit(scores, t) != gated).sum()) for t in np.linspace(0, 1, 101)]
    assert min(apart) > 10


def test_trade_moves_targets_from_the_last_exit_to_the_first():
    losses, costs = rand(B, X + 1).abs(), (1.0, 2.0, 3.0, 5.0)
    free, dear = (JointObjective(trade=trade, costs=costs).target(losses) for trade in (0.0, 1e6))
    assert torch.equal(free, losses.argmin(1))
    assert (dear == 0).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ExitSpec(widths=(), classes=3), "one exit or more"),
        (lambda: ExitSpec(widths=(3, 0), classes=3), "sizes >= 1"),
        (lambda: ExitRule(threshold=1.5), r"a threshold in \[0, 1\], got 1.5"),
        (lambda: ExitRule(temperatures=(1.0, 0.0)), "temperatures above 0"),
        (lambda: ExitRule(temperatures=(1.0,)).cooled(rand(2, 3, 4)), "1, none for exit 1"),
        (lambda: exit_costs([1.0], [1.0, 2.0]), "a stage for every exit, got 1 stages, 2 exits"),
        (lambda: JointObjective(trade=-1.0, costs=(1.0,)), "trade >= 0, got -1.0"),
        (lambda: JointObjective(trade=1.0, costs=()), "costs above 0"),
        (lambda: ExitingClassifier(Classifier(ClassifierConfig(hidden=(5,)))), "one exit or more"),
    ],
)
def test_what_does_not_go_is_refused(make, words):
    with pytest.raises(Refusal, match=words):
        make()


def test_exits_are_seeded():
    spec = ExitSpec(widths=(4, 4), classes=C)
    first, again, other = (Exits(spec, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.heads[1].weight, again.heads[1].weight)
    assert not torch.equal(first.heads[1].weight, other.heads[1].weight)
    assert not first.gate_logits(torch.randn(3, 2, C)).any()
