"""SparseLinear and SparseConv: masks against prune and torch's own, gradients against autograd, names that stay."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from gatescope.errors import Refusal
from gatescope.sparsifiers import (
    NMSpec,
    PruneSpec,
    SparseConv,
    SparseLinear,
    SparseSpec,
    dense_masks,
    hold_masks,
    kept_share,
    mask_weights,
    prune,
    set_sparsity,
    sparse_masks,
    to_nm,
    to_sparse,
)
from jaxtyping import TypeCheckError
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune as torch_prune


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def network() -> nn.Module:
    """Three kinds of convolution and a linear map, in fp64."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, stride=2),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, bias=False),
        nn.Conv2d(6, 4, 1),
        nn.Flatten(),
        nn.Linear(64, 10),
    ).double()


def read_sparse(network: nn.Module, share: float, dense=()) -> nn.Module:
    return to_sparse(deepcopy(network), SparseSpec(share=share), dense)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9, 0.99])
def test_masks_are_those_of_prune_and_of_torch(network, share: float) -> None:
    masks = sparse_masks(read_sparse(network, share))
    ours = prune(network, PruneSpec(share=share))
    other = deepcopy(network)
    for name, layer in other.named_children():
        if f"{name}.weight" in masks:
            torch_prune.l1_unstructured(layer, "weight", amount=share)
            assert torch.equal(masks[f"{name}.weight"], layer.weight_mask.bool())
    assert masks.keys() == ours.keys() == dense_masks(network).keys()
    assert all(torch.equal(masks[name], ours[name]) for name in ours)
    assert kept_share(masks) == pytest.approx(1 - share, abs=0.01)


def test_reads_what_pruning_once_leaves_and_nothing_is_lost(network, images) -> None:
    sparse, once = read_sparse(network, 0.8), deepcopy(network)
    mask_weights(once, sparse_masks(sparse))
    torch.testing.assert_close(sparse(images), once(images))
    assert not torch.allclose(sparse(images), network(images), atol=1e-3)
    set_sparsity(sparse, 0.0)
    assert torch.equal(sparse(images), network(images))


def test_gradients_are_those_of_autograd_at_the_weight_that_was_read(network, images) -> None:
    conv = read_sparse(network, 0.7)[0]
    conv(images).square().sum().backward()
    read = (conv.weight.detach() * conv.mask()).requires_grad_()
    functional.conv2d(images, read, conv.bias.detach(), stride=2, padding=1).square().sum().backward()
    torch.testing.assert_close(conv.weight.grad, read.grad)
    assert (conv.weight.grad[~conv.mask()] != 0).any()


def test_what_is_not_read_comes_back_and_under_a_held_mask_it_does_not(network, images) -> None:
    """Against its ablation: the same mask, held."""
    sparse, held = read_sparse(network, 0.9), deepcopy(network)
    before = sparse_masks(sparse)
    hold_masks(held, before)
    for model in (sparse, held):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(10):
            optimizer.zero_grad()
            model(images).square().mean().backward()
            optimizer.step()
    after, still = sparse_masks(sparse), {name: w != 0 for name, w in held.named_parameters() if w.ndim > 1}
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(before[name], still[name]) for name in before)
    assert kept_share(after) == kept_share(before)


def test_is_not_n_of_m(model) -> None:
    """Against its neighbour: half of every group of a row, and half of the layer wherever it is."""
    groups = to_nm(deepcopy(model), NMSpec(n=2, m=4), dense=("layers.2",))
    whole = read_sparse(model, 0.5, dense=("layers.2",))
    x = torch.rand(5, 64, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(groups(x), whole(x), atol=1e-3)
    rows = sparse_masks(whole)["layers.0.weight"].sum(1)
    assert rows.min() < 32 < rows.max()


def test_parameters_keep_their_names_and_what_is_dense_stays(network) -> None:
    before = dict(network.named_parameters())
    to_sparse(network, SparseSpec(share=0.5), dense=("0",))
    assert all(before[name] is weight for name, weight in network.named_parameters())
    assert [type(layer) for layer in network] == [nn.Conv2d, SparseConv, SparseConv, nn.Flatten, SparseLinear]
    assert "50.0% read as 0" in repr(network[4])


def test_near_one_a_small_layer_reads_nothing_and_still_learns(network, images) -> None:
    sparse = read_sparse(network, 0.999)
    assert sparse_masks(sparse)["2.weight"].sum() == 0
    assert torch.equal(sparse[2](torch.ones(1, 6, 2, 2).double())[0, :, 0, 0], sparse[2].bias)
    sparse(images).square().sum().backward()
    assert sparse[2].weight.grad is not None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda network: SparseSpec(share=1.0), r"share in \[0, 1\)"),
        (lambda network: SparseSpec(share=-0.1), r"share in \[0, 1\)"),
        (lambda network: to_sparse(network, SparseSpec(), dense=("9",)), "dense layers of 0, 1, 2, 4"),
        (lambda network: to_sparse(nn.ReLU(), SparseSpec()), "a layer to make sparse"),
        (lambda network: sparse_masks(network), "a model with sparse layers"),
        (lambda network: set_sparsity(network, 0.5), "a model with sparse layers"),
        (lambda network: SparseConv(nn.Conv2d(1, 1, 3, padding_mode="circular"), SparseSpec()), "padding_mode"),
    ],
)
def test_refusals(network, make, said: str) -> None:
    with pytest.raises((Refusal, TypeCheckError), match=said):
        make(network)
