"""Supernets against the equation written out, in fp64; networks against supernets that have decided."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gatescope.errors import Refusal
from gatescope.search import STEM, Network, SearchSpace, Supernet, mixed, random_architecture, uniform_architecture
from gatescope.sparsifiers import SparseSpec, set_sparsity, to_sparse
from torch.nn import functional


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def supernet(space: SearchSpace, seed: int = 3) -> Supernet:
    """A supernet in fp64 whose alpha is not uniform."""
    net = Supernet(space, init_seed=seed).double()
    with torch.no_grad():
        net.alpha.copy_(torch.randn(net.alpha.shape, generator=torch.Generator().manual_seed(seed)))
    return net


def standard(x: torch.Tensor) -> torch.Tensor:
    """The norm: one mean and variance an image."""
    flat = x.flatten(1)
    mean, variance = flat.mean(1), flat.var(1, unbiased=False)
    return (x - mean[:, None, None, None]) / (variance[:, None, None, None] + 1e-5).sqrt()


def written_out(net: Supernet, images: torch.Tensor) -> torch.Tensor:
    """One cell of two nodes, candidates zero, skip, average 3x3, conv 1x1, conv 3x3."""
    p = net.alpha.detach().exp()
    p = p / p.sum(1, keepdim=True)

    def edge(row: int, x: torch.Tensor) -> torch.Tensor:
        one, three = (net.cells[0][row][place][1].weight for place in (3, 4))
        around = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        linear = torch.einsum("bchw,dc->bdhw", x.relu(), one[:, :, 0, 0])
        conv = functional.conv2d(x.relu(), three, padding=1)
        return p[row, 1] * x + p[row, 2] * standard(around) + p[row, 3] * standard(linear) + p[row, 4] * standard(conv)

    x = standard(functional.conv2d(images[:, None], net.stem.weight, padding=1))
    first = edge(0, x)
    second = edge(1, x) + edge(2, first)
    mean = (first + second) / 2
    pooled = mean.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5))
    return functional.linear(pooled.flatten(1), net.head.weight, net.head.bias)


def test_a_supernet_is_the_equation_written_out(space, images) -> None:
    net = supernet(space)
    torch.testing.assert_close(net(images), written_out(net, images))


def test_the_gradient_of_alpha_is_that_of_finite_differences(space, images) -> None:
    net, labels = supernet(space), torch.tensor([3, 1, 4, 1])

    def loss() -> torch.Tensor:
        return functional.cross_entropy(net(images), labels)

    (gradient,) = torch.autograd.grad(loss(), [net.alpha])
    numeric, step = torch.zeros_like(gradient), 1e-5
    with torch.no_grad():
        for place in np.ndindex(*gradient.shape):
            ends = []
            for sign in (1, -1):
                net.alpha[place] += sign * step
                ends.append(loss())
                net.alpha[place] -= sign * step
            numeric[place] = (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close(gradient, numeric, rtol=1e-6, atol=1e-8)
    assert gradient.sum(1).abs().max() < 1e-12  # softmax does not see a constant


def test_mixed_is_the_weighted_sum_and_refuses_nothing_to_add() -> None:
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    torch.testing.assert_close(mixed([x, None, 2 * x], weights), 0.5 * x + 0.6 * x)
    for outputs in ([None, None, None], [x, x]):
        with pytest.raises(Refusal, match="an output for every weight"):
            mixed(outputs, weights)


@pytest.mark.parametrize("cells", [1, 2, 3])
def test_a_supernet_that_has_decided_is_the_network(space, images, cells: int) -> None:
    space = replace(space, cells=cells)
    architecture = random_architecture(space, 5)
    net, network = Supernet(space).double(), Network(space, architecture).double()
    places = architecture.by_place
    with torch.no_grad():
        for row, place in enumerate(space.edges):
            net.alpha[row] = -1e4
            net.alpha[row, space.operations.index(places.get(place, "zero"))] = 1e4
        for own, other in ((net.stem, network.stem), (net.head, network.head)):
            other.load_state_dict(own.state_dict())
        for cell in range(cells):
            for row, edge in enumerate(architecture.edges):
                column = space.operations.index(edge.operation)
                known = net.cells[cell][space.edges.index((edge.source, edge.node))][column]
                network.cells[cell][row].load_state_dict(known.state_dict())
    torch.testing.assert_close(net(images), network(images))
    assert net.architecture == architecture


def test_sparse_operations_change_what_alpha_is_told(space, images) -> None:
    """Against the ablation: at a share of 0 nothing changes, to the bit; above, outputs and gradients do."""
    dense, sparse = supernet(space), to_sparse(supernet(space), SparseSpec(share=0.0), dense=(STEM,))
    assert torch.equal(dense(images), sparse(images))
    set_sparsity(sparse, 0.9)
    assert torch.equal(dense.stem.weight, sparse.stem.weight)
    gradients = [torch.autograd.grad(net(images).square().sum(), [net.alpha])[0] for net in (dense, sparse)]
    assert not torch.allclose(*gradients, rtol=0.1)


def test_networks_are_drawn_from_their_seed_alone(space) -> None:
    architecture = uniform_architecture(space, "conv 3x3")
    first, again, other = (Network(space, architecture, init_seed=seed) for seed in (1, 1, 2))
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(one, two) for one, two, _ in pairs)
    assert not all(torch.equal(one, three) for one, _, three in pairs)
    size = first.cells[0][0][1].weight
    assert float(size.detach().std()) == pytest.approx((2 / 36) ** 0.5, rel=0.2)


def test_one_image_is_not_told_of_the_others(space, images) -> None:
    net = supernet(space)
    torch.testing.assert_close(net(images)[:1], net(images[:1]))
