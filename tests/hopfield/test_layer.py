"""The Hopfield layer against torch's attention, a spelled-out loop in float64, and what it is without its parts."""

from __future__ import annotations

import pytest
import torch
from gatescope.errors import Refusal
from gatescope.hopfield import retrieve
from gatescope.layers import Hopfield, HopfieldSpec
from gatescope.normalisers import NORMALISERS, NormaliserSpec, normalise
from gatescope.probes import Entropy
from gatescope.scope import Scope
from torch import nn

B, T, S, D = 2, 5, 7, 12


def layer(**spec) -> Hopfield:
    made = Hopfield(HopfieldSpec(**spec), D, layer=0, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for weight in made.parameters():
            weight *= 20
    return made


@pytest.fixture
def state() -> torch.Tensor:
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def stored() -> torch.Tensor:
    return torch.randn(B, S, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_one_update_is_multi_head_attention_of_torch(state, stored):
    ours = layer(n_heads=3, head_dim=4)
    theirs = nn.MultiheadAttention(D, 3, bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q_proj.weight, ours.k_proj.weight, ours.v_proj.weight]))
        theirs.out_proj.weight.copy_(ours.o_proj.weight)
    mask = torch.ones(B, S, dtype=torch.bool)
    mask[1, 4:] = False
    for keep in (None, mask):
        wanted, _ = theirs(state, stored, stored, key_padding_mask=None if keep is None else ~keep)
        torch.testing.assert_close(ours(state, stored, keep), wanted)


@pytest.mark.parametrize("name", NORMALISERS)
@pytest.mark.parametrize("updates", [1, 3])
def test_every_normaliser_is_the_loop_spelled_out(state, stored, name, updates):
    ours = layer(n_heads=2, head_dim=6, updates=updates, beta=0.7, normaliser=NormaliserSpec(name))
    found = ours(state, stored)
    for b in range(B):
        heads = []
        for h in range(2):
            rows = slice(6 * h, 6 * h + 6)
            q, k, v = (x[b] @ w.weight[rows].T for x, w in ((state, ours.q_proj), (stored, ours.k_proj),
                                                            (stored, ours.v_proj)))  # fmt: skip
            for _ in range(updates - 1):
                q = normalise(0.7 * q @ k.T, NormaliserSpec(name)) @ k
            heads.append(normalise(0.7 * q @ k.T, NormaliserSpec(name)) @ v)
        torch.testing.assert_close(found[b], torch.cat(heads, -1) @ ours.o_proj.weight.T)


def test_without_projections_it_retrieves_patterns(state, stored):
    found = layer(beta=2.0, updates=40, tolerance=1e-9)(state, stored)
    wanted = retrieve(state, stored, 2.0, updates=40, tolerance=1e-9)
    torch.testing.assert_close(found, wanted.state)
    assert not list(layer(beta=2.0).parameters())


def test_it_is_neither_one_update_of_attention_nor_another_temperature(state, stored):
    plain = layer(n_heads=3, head_dim=4)
    for other in ({"updates": 4}, {"beta": 4.0}, {"normaliser": NormaliserSpec("entmax")}):
        changed = layer(n_heads=3, head_dim=4, **other)
        assert not torch.allclose(changed(state, stored), plain(state, stored), atol=1e-3)


@pytest.mark.parametrize("name", NORMALISERS)
def test_gradients(state, stored, name):
    ours = layer(n_heads=2, head_dim=3, updates=2, beta=0.5, normaliser=NormaliserSpec(name))
    given = state[:1, :2].clone().requires_grad_(), stored[:1, :4].clone().requires_grad_()
    assert torch.autograd.gradcheck(ours, given)


@pytest.mark.parametrize("name", NORMALISERS)
def test_a_hidden_pattern_is_not_read(state, stored, name):
    ours = layer(beta=1.0, updates=2, normaliser=NormaliserSpec(name))
    mask = torch.ones(B, S, dtype=torch.bool)
    mask[:, 5:] = False
    torch.testing.assert_close(ours(state, stored, mask), ours(state, stored[:, :5]))


def test_probes_see_every_update(state, stored):
    ours = layer(beta=1.0, updates=3)
    with torch.no_grad(), Scope(ours, [Entropy()]) as scope:
        ours(state, stored)
    q, rows = state, []
    for _ in range(3):
        weights = (q @ stored.mT).softmax(-1)
        rows.append(-torch.special.xlogy(weights, weights).sum(-1))
        q = weights @ stored
    assert float(scope.record().entropy.item()) == pytest.approx(float(torch.stack(rows).mean()), rel=1e-6)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"beta": 0.0}, "a finite beta"),
        ({"updates": 0}, "updates >= 1"),
        ({"tolerance": -1.0}, "a tolerance of 0"),
        ({"n_heads": 0}, "sizes of 1"),
        ({"n_heads": 2}, "a head_dim for several heads"),
    ],
)
def test_refusals(spec, words):
    with pytest.raises(Refusal, match=words):
        HopfieldSpec(**spec)
