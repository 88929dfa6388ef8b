"""Adaptive computation modules: against loops a token, the dense MLP, and what each part would be without it."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from gatescope.errors import Refusal
from gatescope.layers import MLP, MLPSpec
from gatescope.layers.adaptive import (
    ACM,
    ACMSpec,
    BudgetSpec,
    budget_loss,
    fewest_learners,
    one_hot,
    partial_errors,
    shares,
)
from gatescope.models import AttentionSpec, LMConfig, TinyLM
from gatescope.probes import ActivationSparsity
from gatescope.scope import Scope
from gatescope.surgery.acmize import acmize, gate_choices, mlp_pairs, modules, with_spec
from jaxtyping import TypeCheckError
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

D, N, F = 6, 4, 5
SPEC = ACMSpec(learners=N, hidden=F, init_std=0.7)


def acm(spec: ACMSpec = SPEC, seed: int = 0) -> ACM:
    return ACM(spec, D, layer=0, generator=torch.Generator().manual_seed(seed)).double()


def inputs(seed: int = 1) -> torch.Tensor:
    return torch.randn(2, 9, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_hand(module: ACM, x: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    out = torch.zeros_like(x)
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            for n in range(int(counts[b, t])):
                out[b, t] += functional.gelu(x[b, t] @ module.up[n]) @ module.down[n]
    return out.detach()


@torch.no_grad()
def test_every_token_gets_the_sum_of_its_learners():
    module = acm().eval()
    counts = module.gate.score(inputs()).argmax(-1)
    assert len(counts.unique()) > 2
    torch.testing.assert_close(module(inputs()), by_hand(module, inputs(), counts))


def test_both_ways_to_compute_it_agree():
    module = acm().eval()
    with torch.no_grad():
        stopped = module(inputs())
    torch.testing.assert_close(module(inputs()).detach(), stopped)


def test_all_learners_are_one_mlp_of_their_width():
    module = acm(ACMSpec(learners=N, hidden=F, count=N, init_std=0.7))
    dense = MLP(MLPSpec("gelu", N * F), D).double()
    with torch.no_grad():
        dense.up_proj.weight.copy_(module.up.permute(0, 2, 1).reshape(N * F, D))
        dense.down_proj.weight.copy_(module.down.reshape(N * F, D).T)
        torch.testing.assert_close(module(inputs()), dense(inputs()))
    torch.testing.assert_close(module(inputs()), dense(inputs()))


@torch.no_grad()
@pytest.mark.parametrize("count", [0, 1, N])
def test_a_fixed_count_is_its_partial_sum(count):
    module = acm(ACMSpec(learners=N, hidden=F, count=count, init_std=0.7))
    torch.testing.assert_close(module(inputs()), module.partial(inputs())[..., count, :])
    if count == 0:
        assert not module(inputs()).any()


@torch.no_grad()
def test_one_learner_is_on_or_off():
    module = acm(ACMSpec(learners=1, hidden=F, init_std=0.7)).eval()
    on = module.gate.score(inputs()).argmax(-1).bool()
    out = module(inputs())
    assert not out[~on].any()
    torch.testing.assert_close(out[on], module.partial(inputs())[..., 1, :][on])


@torch.no_grad()
def test_gates_choose_otherwise_than_any_fixed_count():
    """Against the ablation: the same learners with the same number for all give other outputs, whatever the number."""
    gated = acm().eval()
    for count in range(N + 1):
        fixed = acm(ACMSpec(learners=N, hidden=F, count=count, init_std=0.7))
        fixed.up.copy_(gated.up)
        fixed.down.copy_(gated.down)
        apart = (fixed(inputs()) - gated(inputs())).abs().amax(-1) > 1e-6
        assert int(apart.sum()) > 0


@torch.no_grad()
def test_operations_are_counted_as_torch_counts_them():
    module, x = acm().eval(), inputs()
    with FlopCounterMode(display=False) as counter:
        module(x)
    counts = module.gate.score(x).argmax(-1)
    assert counter.get_total_flops() == float(module.flops(counts).sum())
    dense = 4 * D * N * F
    assert float(module.flops(torch.tensor(N))) == dense + 2 * D * (N + 1)
    assert float(acm(ACMSpec(learners=N, hidden=F, count=N)).flops(torch.tensor(N))) == dense


def test_partial_sums_teach_their_last_learner_alone():
    module = acm()
    sums = module.partial(inputs())
    torch.testing.assert_close(sums[..., 3, :].detach(), by_hand(module, inputs(), torch.full((2, 9), 3)))
    sums[..., 3, :].square().sum().backward()
    moved = module.up.grad.abs().sum((1, 2))
    assert (moved > 0).tolist() == [False, False, True, False]


def test_gates_learn_through_the_straight_through_choice():
    module = acm().train()
    choice = module.gate(inputs())
    assert torch.equal(choice.detach().round(), one_hot(choice.argmax(-1), choice))
    module(inputs()).square().sum().backward()
    assert float(module.gate.score.weight.grad.abs().sum()) > 0
    again = acm().train().gate(inputs())
    assert torch.equal(choice.argmax(-1), again.argmax(-1))
    assert not torch.equal(module.gate(inputs()).argmax(-1), again.argmax(-1))


def test_gumbel_noise_draws_by_the_softmax_of_the_logits():
    spec = ACMSpec(learners=2, hidden=F)
    gate = acm(spec).train().gate
    with torch.no_grad():
        gate.score.weight.zero_()
        gate.score.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    drawn = gate(torch.zeros(1, 40_000, D, dtype=torch.float64)).mean((0, 1))
    torch.testing.assert_close(drawn, gate.score.bias.softmax(-1), atol=0.01, rtol=0)


def test_labels_are_a_loop():
    errors = torch.rand(50, N + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    errors[0], errors[1] = torch.tensor([16.0, 8, 4, 2, 1]), torch.ones(N + 1)
    for factor in (1.0, 1.2, 3.0):
        for row, found in zip(errors, fewest_learners(errors, factor), strict=True):
            wanted = next((c for c in range(N) if row[c] / row[c + 1] < factor), N)
            assert int(found) == wanted
    assert fewest_learners(errors, 1.5)[:2].tolist() == [N, 0]


def test_errors_are_mean_squares():
    module, target = acm(), inputs(7)
    found = partial_errors(module.partial(inputs()), target)
    for c in range(N + 1):
        wanted = (by_hand(module, inputs(), torch.full((2, 9), c)) - target).square().mean(-1)
        torch.testing.assert_close(found[..., c].detach(), wanted)


def test_the_budget_loss_is_numpys():
    generator = torch.Generator().manual_seed(3)
    counts = [torch.randint(0, N + 1, (2, 9), generator=generator) for _ in range(2)]
    like = torch.zeros(2, 9, N + 1, dtype=torch.float64)
    choices = [one_hot(c, like) for c in counts]
    share = [c.numpy().flatten() / N for c in counts]
    off = abs(np.mean([s.mean() for s in share]) - 0.3)
    used = np.mean([_entropy(np.bincount(c.numpy().flatten(), minlength=N + 1) / 18) for c in counts]) / np.log(N + 1)
    apart = np.mean([np.abs(s[:, None] - s[None]).mean() for s in share])
    spec = BudgetSpec(budget=0.3, weight=2.0, entropy=0.5, diversity=0.7)
    assert float(budget_loss(choices, spec)) == pytest.approx(2 * off - 0.5 * used - 0.7 * apart, abs=1e-9)
    np.testing.assert_allclose(shares(choices[0]).flatten().numpy(), share[0])


def _entropy(p: np.ndarray) -> float:
    return float(-sum(x * np.log(x) for x in p if x > 0))


@pytest.mark.parametrize("budget", [0.0, 0.5, 1.0])
def test_a_budget_is_met_at_its_ends_too(budget):
    module = acm().train()
    spec = BudgetSpec(budget=budget, entropy=0.0, diversity=0.0)
    optimizer = torch.optim.Adam(module.gate.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        budget_loss([module.gate(inputs())], spec).backward()
        optimizer.step()
    assert float(shares(module.eval().gate(inputs())).detach().mean()) == pytest.approx(budget, abs=0.1)


CONFIG = LMConfig(11, D, 2, AttentionSpec(2, 1, 6), MLPSpec("gelu", N * F), init_std=0.5)
TOKENS = torch.arange(22).view(2, 11) % 11


@torch.no_grad()
def test_a_model_of_all_learners_cut_from_its_mlps_is_the_model():
    """Surgery against the dense model: learners that are slices of the MLP, all of them run, change nothing."""
    model = TinyLM(CONFIG, init_seed=2).double()
    converted = acmize(model, ACMSpec(learners=N, hidden=F, count=N)).double()
    for layer, module in modules(converted).items():
        dense = model.blocks[layer].mlp
        module.up.copy_(dense.up_proj.weight.view(N, F, D).permute(0, 2, 1))
        module.down.copy_(dense.down_proj.weight.T.view(N, F, D))
    torch.testing.assert_close(converted(TOKENS), model(TOKENS))
    x, y = mlp_pairs(model, TOKENS)[1]
    torch.testing.assert_close(modules(converted)[1](x), y)
    fewer = with_spec(converted, ACMSpec(learners=N, hidden=F, count=2))
    assert not torch.allclose(fewer(TOKENS), model(TOKENS))
    assert isinstance(model.blocks[0].mlp, MLP)


@torch.no_grad()
def test_choices_are_read_and_replaced():
    model = acmize(TinyLM(CONFIG, init_seed=2), ACMSpec(learners=N, hidden=F, init_std=0.5)).eval()
    with gate_choices(model) as seen:
        free = model(TOKENS)
    assert [tuple(choice.shape) for choice in seen] == [(2, 11, N + 1)] * 2

    def none(module, x, choice):
        return one_hot(torch.zeros(choice.shape[:-1], dtype=torch.long), choice)

    with gate_choices(model, none) as seen:
        silent = model(TOKENS)
    assert float(sum(shares(choice).sum() for choice in seen)) == 0
    assert not torch.equal(silent, free)
    assert torch.equal(model(TOKENS), free)
    zero = deepcopy(model)
    for module in modules(zero).values():
        module.down.zero_()
    torch.testing.assert_close(zero(TOKENS), silent)


@torch.no_grad()
def test_a_probe_sees_learners_that_did_not_run_as_zeros():
    model = acmize(TinyLM(CONFIG, init_seed=2), ACMSpec(learners=N, hidden=F, kind="relu", count=1)).eval()
    with Scope(model, probes=[ActivationSparsity(0)]) as scope:
        model(TOKENS)
    assert (scope.record().activation_zeros >= 1 - 1 / N).all()


def test_gates_survive_another_spec_and_a_copy():
    model = acmize(TinyLM(CONFIG, init_seed=2), ACMSpec(learners=N, hidden=F))
    warm = with_spec(model, ACMSpec(learners=N, hidden=F, temperature=0.5))
    for layer, module in modules(warm).items():
        assert torch.equal(module.gate.score.weight, modules(model)[layer].gate.score.weight)
        assert torch.equal(module.up, modules(model)[layer].up)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ACMSpec(learners=0, hidden=3), "one learner or more"),
        (lambda: ACMSpec(learners=3, hidden=3, count=4), r"count None or in 0\.\.3, got 4"),
        (lambda: ACMSpec(learners=3, hidden=3, temperature=0.0), "a temperature and a std above 0"),
        (lambda: ACMSpec(learners=3, hidden=3, kind="swiglu"), "kind"),
        (lambda: fewest_learners(torch.ones(2, 3), 0.5), "factor >= 1, got 0.5"),
        (lambda: BudgetSpec(budget=1.5), r"a budget in \[0, 1\], got 1.5"),
        (lambda: BudgetSpec(budget=0.5, entropy=-1.0), "weights of 0 or more"),
        (lambda: budget_loss([], BudgetSpec(budget=0.5)), "the choices of at least one module"),
        (lambda: modules(TinyLM(CONFIG)), "a model with ACMs, got TinyLM"),
        (lambda: acmize(TinyLM(LMConfig(11, D, 1, AttentionSpec(2, 1, 6), None)), SPEC), "a model with MLPs"),
        (lambda: acm(ACMSpec(learners=2, hidden=3, count=1)).gate_logits(inputs()), "count=None, got count=1"),
        (lambda: with_spec(acmize(TinyLM(CONFIG), SPEC), ACMSpec(learners=2, hidden=F)), "4 of 5 in the model"),
    ],
)
def test_what_does_not_go_is_refused(make, words):
    with pytest.raises((Refusal, TypeCheckError), match=words):
        make()
