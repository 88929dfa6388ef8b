"""N:M layers: masks against torch.ao and a loop, three ways to train against autograd, and what each rule does."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from gatescope.errors import Refusal
from gatescope.models import Classifier
from gatescope.sparsifiers import NMLinear, NMSpec, divergence, hold_masks, mask_weights, nm_masks, to_nm
from gatescope.weights import weight_record
from jaxtyping import TypeCheckError
from torch import nn
from torch.nn import functional


def sparse(model, **changes) -> nn.Module:
    return to_nm(deepcopy(model), NMSpec(**changes), dense=("layers.2",))


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 8), (3, 8), (4, 4)])
def test_masks_are_those_of_a_loop(model, n: int, m: int) -> None:
    for name, mask in nm_masks(sparse(model, n=n, m=m)).items():
        weight = dict(model.named_parameters())[name].detach()
        for row, kept in zip(weight.tolist(), mask.tolist(), strict=True):
            for start in range(0, len(row), m):
                group = row[start : start + m]
                largest = sorted(range(m), key=lambda i, group=group: -abs(group[i]))[:n]
                assert [i for i in range(m) if kept[start + i]] == sorted(largest)


def test_masks_are_those_of_torch_ao(model) -> None:
    from torch.ao.pruning import WeightNormSparsifier

    other = deepcopy(model)
    sparsifier = WeightNormSparsifier(sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2)
    sparsifier.prepare(other, [{"tensor_fqn": "layers.0.weight"}, {"tensor_fqn": "layers.1.weight"}])
    sparsifier.step()
    sparsifier.squash_mask()
    for name, mask in nm_masks(sparse(model)).items():
        assert torch.equal(mask, dict(other.named_parameters())[name] != 0)


@pytest.mark.parametrize("rule", ["ste", "srste", "masked"])
def test_gradients_are_those_of_autograd_on_the_masked_weight(model, rule: str) -> None:
    layer = sparse(model, rule=rule, decay=0.1).double().layers[0]
    mask = nm_masks(nn.Sequential(layer))["0.weight"]
    x = torch.randn(7, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer(x).square().sum().backward()
    read = (layer.weight.detach() * mask).requires_grad_()
    functional.linear(x, read, layer.bias.detach()).square().sum().backward()
    added = {"ste": 0.0, "srste": 0.1 * ~mask * layer.weight.detach(), "masked": -read.grad * ~mask}[rule]
    torch.testing.assert_close(layer.weight.grad, read.grad + added)


def test_parameters_keep_their_names_and_places(model) -> None:
    other = deepcopy(model)
    before = dict(other.named_parameters())
    to_nm(other, NMSpec(), dense=("layers.2",))
    after = dict(other.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    assert [type(layer) for layer in other.layers] == [NMLinear, NMLinear, nn.Linear]


def test_n_equal_to_m_is_the_dense_model_and_fewer_is_not(model) -> None:
    x = torch.rand(5, 64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(sparse(model, n=4)(x), model(x))
    assert not torch.allclose(sparse(model, n=2)(x), model(x), atol=1e-3)


def test_one_shot_pruning_and_reading_sparse_are_the_same_function(model) -> None:
    x = torch.rand(5, 64, generator=torch.Generator().manual_seed(1))
    read, once = sparse(model), deepcopy(model)
    mask_weights(once, nm_masks(read))
    torch.testing.assert_close(once(x), read(x))
    held = weight_record(once).weight_nm.sel(pattern="2:4", parameter=["layers.0.weight", "layers.1.weight"])
    assert held.values.tolist() == [1, 1]


def test_a_fixed_mask_stays_and_straight_through_ones_move(model, train) -> None:
    fixed, moving = sparse(model, rule="masked"), sparse(model, rule="ste")
    start = nm_masks(fixed)
    hold_masks(fixed, start)
    train(fixed)
    train(moving)
    assert divergence(start, nm_masks(fixed)) == 0
    assert divergence(start, nm_masks(moving)) > 0.01


def test_decay_stills_the_mask(model, train) -> None:
    """SR-STE pulls what is not read to 0, away from the edge, so that with a large lambda places change less."""
    found = {}
    for name, decay in (("ste", 0.0), ("srste", 0.05)):
        network = sparse(model, rule=name, decay=decay)
        train(network)
        before, unread = nm_masks(network), network.layers[0].weight.detach()
        train(network)
        found[name] = divergence(before, nm_masks(network)), float(unread[~before["layers.0.weight"]].abs().mean())
    assert found["srste"][0] < found["ste"][0]
    assert found["srste"][1] < found["ste"][1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n": 0}, "N:M with 1 <= N <= M"),
        ({"n": 5}, "N:M with 1 <= N <= M"),
        ({"decay": -1.0}, "decay >= 0"),
        ({"rule": "dense"}, "rule"),
    ],
)
def test_refusals(changes: dict, said: str) -> None:
    # The shape checker of tests may be faster.
    with pytest.raises((Refusal, TypeCheckError), match=said):
        NMSpec(**changes)


def test_refusals_of_models_that_do_not_fit(model) -> None:
    with pytest.raises(Refusal, match=r"multiples of 16.*layers\.1 \(24\)"):
        to_nm(model, NMSpec(n=2, m=16), dense=("layers.2",))
    with pytest.raises(Refusal, match="dense layers of"):
        to_nm(model, NMSpec(), dense=("head",))
    with pytest.raises(Refusal, match=r"a layer to make sparse, got none; pass a model with nn\.Linear"):
        to_nm(nn.Sequential(nn.ReLU()), NMSpec())
    with pytest.raises(Refusal, match="NMLinear layers"):
        nm_masks(model)
    assert isinstance(model, Classifier)
    assert all(isinstance(layer, nn.Linear) for layer in model.layers)
