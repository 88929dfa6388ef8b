"""Routing against loops over tokens and choices."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
import torch
from gatescope.errors import NonFiniteError, Refusal
from gatescope.probes import Routing, saturation
from gatescope.probes.routing import uniform_entropy


def logits_of(B=2, T=11, E=5, seed=0):
    return torch.randn(B, T, E, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=[("softmax", 2), ("softmax", 1), ("sigmoid", 3)], ids=str)
def scores(request, scores_of):
    kind, k = request.param
    return scores_of(logits_of(), k=k, kind=kind)


def loops(scores):
    """Load, importance, router entropy and pairs, counted one token at a time."""
    B, T, k = scores.index.shape
    E = scores.logits.shape[-1]
    load, importance, pairs, entropy = np.zeros(E), np.zeros(E), np.zeros((E, E)), 0.0
    for b, t in product(range(B), range(T)):
        p = scores.probabilities[b, t].tolist()
        p = [value / sum(p) for value in p]
        entropy -= sum(value * math.log(value) for value in p)
        importance += p
        visited = [int(scores.index[b, t, j]) for j in range(k) if scores.weight[b, t, j] != 0]
        for i in visited:
            load[i] += 1
            for j in visited:
                pairs[i, j] += 1
    return load, importance / (B * T), entropy / (B * T), pairs


def test_every_number_follows_its_definition(measure, scores):
    here = measure(Routing(), routers=[scores]).sel(layer=0)
    load, importance, entropy, pairs = loops(scores)
    f, E = load / load.sum(), len(load)
    H = -sum(x * math.log(x) for x in f if x)
    np.testing.assert_allclose(here.expert_load, f)
    np.testing.assert_allclose(here.expert_importance, importance)
    assert here.router_entropy == pytest.approx(entropy)
    assert here.load_entropy == pytest.approx(H / math.log(E))
    assert here.experts_effective == pytest.approx(math.exp(H))
    assert here.load_violation == pytest.approx((load.max() - load.mean()) / load.mean())
    assert here.load_cv == pytest.approx(np.std(load) / load.mean())
    assert here.experts_dead == (load == 0).sum()
    assert here.experts_visited == pytest.approx(load.sum() / 22)
    assert here.switch_loss == pytest.approx(E * sum(f * importance))
    np.testing.assert_allclose(here.coactivation, pairs / np.diag(pairs)[:, None])
    assert here.expert_load.attrs["window_tokens"] == 22
    assert here.expert_load.attrs["router"] == scores.kind


def test_violation_of_a_batch_and_of_all(measure, scores_of):
    one_hot = torch.eye(4, dtype=torch.float64)[None] * 9
    passes = [scores_of(one_hot[:, rows], k=1) for rows in ([0, 0, 1], [1, 2, 2], [3, 3, 3])]
    here = measure(Routing(), *({"routers": [scores]} for scores in passes))
    # Every pass sends three tokens to four experts: 2, 2 and 3 of them to one.
    assert here.load_violation_batch.item() == pytest.approx(np.mean([2 / 0.75, 2 / 0.75, 3 / 0.75]) - 1)
    assert here.load_violation.item() == pytest.approx(3 / 2.25 - 1)


def test_a_dead_expert_is_named_and_comes_back_to_life(measure, scores_of):
    logits = logits_of(E=4)
    logits[..., 2] = -50
    probe = Routing()
    here = measure(probe, routers=[scores_of(logits)])
    assert here.experts_dead.item() == 1
    assert here.expert_dead.values.tolist() == [[False, False, True, False]]
    assert np.isnan(here.coactivation.sel(expert=2)).all()
    assert here.experts_effective < 3.0001
    logits[0, 0, 2] = 50
    assert measure(probe, routers=[scores_of(logits)]).experts_dead.item() == 0


def test_an_expert_of_weight_0_is_not_visited(measure, scores_of):
    scores = scores_of(logits_of())
    dropped = replace(scores, weight=scores.weight.where(scores.index != 3, 0))
    here = measure(Routing(), routers=[dropped])
    assert here.expert_dead.sel(layer=0, expert=3)
    assert here.expert_load.sum() == pytest.approx(1)


@pytest.mark.parametrize(("E", "k", "N"), [(2, 1, 4), (3, 1, 3), (3, 2, 3), (4, 3, 2)])
def test_the_uniform_baselines_are_expectations(measure, scores_of, E, k, N):
    """Over every way in which N tokens can visit k of E experts, all equally likely."""
    choices = [logits for logits in set(permutations([9.0] * k + [0.0] * (E - k)))]
    records = [
        measure(Routing(), routers=[scores_of(torch.tensor([way], dtype=torch.float64), k=k)])
        for way in product(choices, repeat=N)
    ]

    def mean(name):
        return np.mean([float(record[name].squeeze()) for record in records])

    about = {name: variable.attrs.get("baseline_value") for name, variable in records[0].data_vars.items()}
    assert mean("load_entropy") == pytest.approx(about["load_entropy"])
    assert mean("experts_dead") == pytest.approx(about["experts_dead"])
    squares = np.mean([float(record.load_cv.squeeze()) ** 2 for record in records])
    assert squares == pytest.approx(about["load_cv"] ** 2)


@pytest.mark.parametrize(("E", "k", "N"), [(8, 2, 500), (64, 8, 4000)])
def test_baselines_of_many_tokens(measure, scores_of, E, k, N):
    logits = torch.rand(1, N, E, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    here = measure(Routing(), routers=[scores_of(logits, k=k)])
    assert here.load_entropy.item() == pytest.approx(here.load_entropy.attrs["baseline_value"], abs=2e-3)
    assert here.load_cv.item() == pytest.approx(here.load_cv.attrs["baseline_value"], rel=0.5)
    off = ~np.eye(E, dtype=bool)
    assert here.coactivation.values[0][off].mean() == pytest.approx(here.coactivation.attrs["baseline_value"], rel=0.01)
    assert uniform_entropy(E, k, 10**7) == pytest.approx(math.log(E), abs=1e-5)


def test_equal_probabilities_cost_1(measure, scores_of):
    here = measure(Routing(), routers=[scores_of(torch.zeros(1, 6, 4, dtype=torch.float64))])
    assert here.switch_loss.item() == pytest.approx(1)
    assert here.router_entropy.item() == pytest.approx(here.router_entropy.attrs["baseline_value"])


def test_the_map_of_tokens_leaves_padding_out(measure, scores_of):
    scores = scores_of(logits_of(B=1))
    mask = torch.ones(1, 11, dtype=torch.bool)
    mask[0, :3], mask[0, 9:] = False, False
    here = measure(Routing(keep=True), routers=[scores, scores], key_mask=mask)
    assert here.token.values.tolist() == list(range(3, 9))
    assert here.token_expert.sel(layer=1).values.tolist() == scores.index[0, 3:9].tolist()
    np.testing.assert_allclose(here.token_weight.sel(layer=0), scores.weight[0, 3:9])


@pytest.mark.parametrize(("passes", "got"), [([2], "2 sequences"), ([1, 1], "a second pass")])
def test_the_map_is_of_one_sequence(measure, scores_of, passes, got):
    with pytest.raises(Refusal, match=rf"Routing\(keep=True\): wanted one sequence and one forward pass, got {got};"):
        measure(Routing(keep=True), *({"routers": [scores_of(logits_of(B=B))]} for B in passes))


class TestSaturation:
    @pytest.fixture
    def kept(self, measure, scores_of):
        def of(seed, T=11, E=6):
            layers = [logits_of(B=1, T=T, E=E, seed=seed + layer) for layer in (0, 100)]
            return measure(Routing(keep=True), routers=[scores_of(logits) for logits in layers])

        return of

    def test_it_is_the_share_of_common_experts(self, kept):
        early, final = kept(0), kept(1)
        found = saturation(early, final).routing_saturation
        for layer in (0, 1):
            ours, theirs = (record.token_expert.sel(layer=layer).values.tolist() for record in (early, final))
            want = np.mean([len(set(a) & set(b)) / 2 for a, b in zip(ours, theirs, strict=True)])
            assert found.sel(layer=layer) == pytest.approx(want)
        assert found.attrs["baseline_value"] == pytest.approx(2 / 6)
        assert (saturation(final, final).routing_saturation == 1).all()

    def test_a_layer_without_a_router_has_no_share(self, kept):
        early, final = (record.reindex(layer=[0, 1, 2]).assign_attrs(record.attrs) for record in (kept(0), kept(1)))
        assert saturation(early, final).routing_saturation.isnull().values.tolist() == [False, False, True]

    def test_records_must_match(self, kept, measure, scores_of):
        with pytest.raises(Refusal, match="measure two checkpoints of one model on the same tokens"):
            saturation(kept(0), kept(1, T=9))
        with pytest.raises(Refusal, match="measure two checkpoints of one model on the same tokens"):
            saturation(kept(0), kept(1, E=7))
        with pytest.raises(Refusal, match=r"token_expert\(layer, token, choice\) in final"):
            saturation(kept(0), measure(Routing(), routers=[scores_of(logits_of())]))


def test_one_expert_is_refused(measure, scores_of):
    with pytest.raises(Refusal, match="Routing: wanted two experts or more, got one in layer 0"):
        measure(Routing(), routers=[scores_of(logits_of(E=1), k=1)])


def test_nan_is_named_with_its_layer(measure, scores_of):
    bad = scores_of(logits_of())
    bad.probabilities[1, 3, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"Routing: wanted finite numbers for \w+, got NaN or infinity in layer 1"):
        measure(Routing(), routers=[scores_of(logits_of()), bad])
