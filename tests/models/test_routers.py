"""The dense-to-sparse gate against loops, torch's Gumbel softmax and fixed top-k; its schedule; its layer."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from gatescope import checkpoints, specs
from gatescope.errors import Refusal
from gatescope.gates import Schedule
from gatescope.layers import DenseToSparse, MoE, MoESpec
from gatescope.layers.routers import dense_to_sparse, gumbel_like
from gatescope.models import AttentionSpec, LMConfig, TinyLM
from gatescope.probes import Routing
from gatescope.scope import Scope
from gatescope.taps import Handler, attached
from gatescope_kernels import route

GATE = DenseToSparse(Schedule(2.0, 0.1, 100), threshold=0.05, noise="none")
SPEC = MoESpec(experts=5, k=1, hidden=7, renormalise=False, gate=GATE, init_std=0.5)
N, E, D = 40, 5, 6


def logits_of(n: int = N, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, E, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_hand(logits: np.ndarray, temperature: float, threshold: float, least: int, renormalise: bool) -> np.ndarray:
    """Weights [N E], one token and one expert at a time, in numpy."""
    weights = np.zeros_like(logits)
    for n, row in enumerate(logits):
        e = np.exp((row - row.max()) / temperature)
        p = e / e.sum()
        kept = [i for place, i in enumerate(np.argsort(-p, kind="stable")) if p[i] > threshold or place < least]
        weights[n, kept] = p[kept] / (p[kept].sum() if renormalise else 1.0)
    return weights


def dense(index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(index), E, dtype=weight.dtype).scatter_add(1, index, weight)


@pytest.mark.parametrize(("temperature", "threshold"), [(2.0, 1e-3), (0.7, 0.15), (0.2, 0.05), (1.0, 0.0), (1.0, 0.99)])
@pytest.mark.parametrize(("least", "renormalise"), [(1, False), (2, True)])
def test_equals_loops_in_numpy(temperature, threshold, least, renormalise):
    given = {"temperature": temperature, "threshold": threshold, "least": least, "renormalise": renormalise}
    z, index, weight = dense_to_sparse(logits_of(), **given)
    wanted = by_hand(logits_of().numpy(), **given)
    np.testing.assert_allclose(dense(index, weight), wanted, atol=1e-12)
    assert index.shape[1] == (wanted > 0).sum(1).max()
    np.testing.assert_allclose(z, logits_of() / temperature)
    assert bool((weight[:, 1:] <= weight[:, :-1]).all())


def test_its_noise_is_that_of_the_gumbel_softmax():
    torch.manual_seed(7)
    wanted = torch.nn.functional.gumbel_softmax(logits_of(), tau=0.6)
    noise = gumbel_like(logits_of(), torch.Generator().manual_seed(7))
    _, index, weight = dense_to_sparse(logits_of(), temperature=0.6, threshold=0.0, noise=noise)
    torch.testing.assert_close(dense(index, weight), wanted)


def test_at_temperature_0_it_is_top_1_and_hot_it_is_dense():
    top, _ = route(logits_of(), 1)
    _, index, weight = dense_to_sparse(logits_of(), temperature=0.0, threshold=1e-3)
    assert torch.equal(index, top)
    assert torch.equal(weight, torch.ones_like(weight))
    _, index, weight = dense_to_sparse(logits_of(), temperature=1e6, threshold=1e-3)
    torch.testing.assert_close(dense(index, weight), torch.full((N, E), 1 / E, dtype=torch.float64), rtol=1e-4, atol=0)
    tied = torch.zeros(1, E, dtype=torch.float64)
    assert dense_to_sparse(tied, temperature=0.0, threshold=0.0)[1].flatten()[0] == 0


def test_it_is_neither_fixed_top_k_nor_without_annealing_the_same():
    counts = {}
    for temperature in (2.0, 0.3):
        _, _, weight = dense_to_sparse(logits_of(400), temperature=temperature, threshold=0.05)
        counts[temperature] = (weight > 0).sum(1)
    assert counts[0.3].double().mean() < 0.6 * counts[2.0].double().mean()
    assert len(counts[0.3].unique()) > 1
    cold = dense(*dense_to_sparse(logits_of(400), temperature=0.3, threshold=0.05)[1:])
    for k in range(1, E + 1):
        fixed = dense(*route(logits_of(400) / 0.3, k, renormalise=False))
        assert int(((fixed > 0) != (cold > 0)).sum()) > 50, k


def test_a_nan_stays_in_its_row():
    logits = logits_of()
    logits[3, 2] = torch.nan
    for temperature in (0.0, 1.0):
        weight = dense_to_sparse(logits, temperature=temperature, threshold=0.1)[2]
        assert weight.isnan().any(-1).nonzero().flatten().tolist() == [3]


def test_gradients_are_those_of_finite_differences():
    logits = logits_of(6).requires_grad_()

    def weights(logits):
        _, index, weight = dense_to_sparse(logits, temperature=0.8, threshold=0.1, renormalise=True)
        return dense(index, weight)

    assert torch.autograd.gradcheck(weights, (logits,))


def layer_of(spec: MoESpec = SPEC) -> MoE:
    return MoE(spec, D, layer=0, generator=torch.Generator().manual_seed(1)).double()


def inputs(n: int = 30) -> torch.Tensor:
    return torch.randn(2, n, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_the_layer_adds_up_the_experts_that_are_kept():
    layer, x = layer_of().requires_grad_(False), inputs()
    layer.anneal(60)
    weights = by_hand((x @ layer.router.weight.T).flatten(0, 1).numpy(), GATE.temperature.at(60), 0.05, 1, False)
    every = torch.einsum(
        "ntef,efd->nted",
        torch.nn.functional.silu(torch.einsum("ntd,edf->ntef", x, layer.w_gate))
        * torch.einsum("ntd,edf->ntef", x, layer.w_up),
        layer.w_down,
    )
    wanted = (torch.from_numpy(weights).view(2, 30, 5, 1) * every).sum(-2)
    torch.testing.assert_close(layer(x), wanted)
    assert 1 < (weights > 0).sum(1).mean() < 5


def test_experts_that_nobody_keeps_are_not_computed(monkeypatch):
    layer, rows = layer_of(), []
    monkeypatch.setattr(layer, "_mix", lambda x, index, weight: rows.append(len(x)) or torch.zeros_like(x))
    for step in (0, 100):
        layer.anneal(step)
        layer(inputs())
    assert rows[0] > 2 * rows[1] >= 2 * 60


class Drop(Handler):
    sites = frozenset({"router"})

    def edit(self, site, layer, value):
        return replace(value, weight=torch.zeros_like(value.weight))


def test_a_token_without_experts_gets_nothing():
    class Model(torch.nn.Module):
        tap_sites = frozenset({"router"})

        def __init__(self):
            super().__init__()
            self.layer = layer_of()

        def forward(self, x):
            return self.layer(x)

    model = Model()
    with attached(model, Drop()):
        assert not model(inputs()).any()


def test_noise_depends_on_seed_and_step_and_only_while_training():
    layer, x = layer_of(replace(SPEC, gate=replace(GATE, noise="gumbel"))), inputs()

    def at(step, seed):
        layer.anneal(step, seed)
        return layer(x).detach()

    assert torch.equal(at(3, 1), at(3, 1))
    assert not torch.equal(at(3, 1), at(3, 2))
    layer.anneal(3, 1)
    first = layer(x)
    assert not torch.equal(first, layer(x))
    layer.eval()
    assert torch.equal(at(3, 1), at(3, 2))


def test_the_router_learns_through_the_gate():
    layer = layer_of()
    layer(inputs()).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in layer.parameters())


def test_a_model_with_the_gate_survives_its_file_and_a_probe_counts_its_visits(tmp_path):
    model = TinyLM(LMConfig(19, D, 2, AttentionSpec(2, 1, 6), SPEC), init_seed=3).eval()
    for block in model.blocks:
        block.mlp.anneal(100)
    checkpoints.save_model(tmp_path / "m.safetensors", model)
    again = checkpoints.load_model(tmp_path / "m.safetensors").eval()
    assert again.config == model.config
    assert LMConfig.from_dict(json.loads(json.dumps(model.config.to_dict()))) == model.config
    tokens = torch.arange(10)[None]
    assert torch.equal(again(tokens), model(tokens))
    with Scope(again, [Routing()]) as scope:
        again(tokens)
    visited = scope.record().experts_visited
    assert ((visited >= 1) & (visited < 5)).all()


@pytest.mark.parametrize(("shape", "middle"), [("linear", 1.05), ("exponential", np.sqrt(2.0 * 0.1))])
def test_a_schedule_holds_moves_and_stays(shape, middle):
    schedule = Schedule(2.0, 0.1, 100, shape, hold=10)
    assert [schedule.at(step) for step in (0, 10)] == [2.0, 2.0]
    assert schedule.at(60) == pytest.approx(middle)
    assert [schedule.at(step) for step in (110, 10_000)] == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Schedule(0.0, 1.0, 5), "a finite start above 0, got 0.0"),
        (lambda: Schedule(1.0, float("nan"), 5), "a finite end above 0"),
        (lambda: Schedule(1.0, 0.5, 0), "steps >= 1 and hold >= 0, got steps=0"),
        (
            lambda: specs.from_dict(Schedule, {"start": 1.0, "end": 0.5, "steps": 5, "shape": "cosine"}),
            r"Schedule\.shape",
        ),
        (lambda: replace(GATE, threshold=1.0), r"threshold in \[0, 1\), got 1.0"),
        (lambda: specs.from_dict(DenseToSparse, specs.to_dict(GATE) | {"noise": "normal"}), r"DenseToSparse\.noise"),
        (lambda: replace(SPEC, kind="sigmoid"), "kind='softmax', balancing=None for a dense-to-sparse gate"),
        (lambda: replace(SPEC, balancing="bias"), "got kind='softmax', balancing='bias'"),
        (lambda: replace(SPEC, init_std=0.0), "init_std > 0, got 0.0"),
        (lambda: dense_to_sparse(logits_of(), temperature=-1.0, threshold=0.1), "temperature of 0 or more, got -1.0"),
        (
            lambda: dense_to_sparse(logits_of(), temperature=1.0, threshold=0.1, least=6),
            r"least in \[1, E\] = \[1, 5\], got 6",
        ),
        (lambda: layer_of(MoESpec(3, 1, 4)).anneal(0), r"MoE\.anneal: wanted a MoESpec with gate=.*, got gate=None"),
    ],
)
def test_what_does_not_go_is_refused(make, words):
    with pytest.raises(Refusal, match=words):
        make()
