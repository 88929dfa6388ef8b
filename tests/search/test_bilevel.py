"""The search: by turns as written out, dense at a sparsity of 0 to the bit, and to be left and gone on with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gatescope.errors import NonFiniteError, Refusal
from gatescope.search import STEM, Search, SearchSpec, Supernet
from gatescope.sparsifiers import kept_share, sparse_masks
from torch import nn

SPEC = SearchSpec(steps=6, dense_steps=2, batch=16, seed=5)


def weights(net: nn.Module) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in net.parameters()]


def test_the_dense_search_is_two_optimisers_by_turns(space, halves) -> None:
    """Against a loop of its own on a supernet without any sparse layer."""
    train, validation = halves
    net = Supernet(space, init_seed=5)
    others = [weight for name, weight in net.named_parameters() if name != "alpha"]
    of_alpha = torch.optim.Adam([net.alpha], lr=3e-2, betas=(0.5, 0.999))
    of_weights = torch.optim.Adam(others, lr=3e-3, fused=True)
    losses = []
    for step in range(SPEC.steps):
        for task, stream, optimizer in ((validation, 1, of_alpha), (train, 0, of_weights)):
            net.zero_grad()
            loss = task.nll(net, *task.batch((5, step, stream), 16)).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    search = Search(space, SPEC, *halves)
    found = [loss for step in search for loss in (step.validation_loss, step.loss)]
    assert found == losses
    named = dict(search.supernet.named_parameters())
    assert all(torch.equal(weight, named[name]) for name, weight in net.named_parameters())


def test_with_sparsity_0_the_sparse_search_is_the_dense_one_and_above_it_is_not(space, halves) -> None:
    """Against its ablation and the named baseline, the dense search."""
    dense = Search(space, replace(SPEC, dense_steps=6), *halves).run()
    none = Search(space, replace(SPEC, sparsity=0.0), *halves).run()
    sparse = Search(space, replace(SPEC, sparsity=0.9), *halves).run()
    assert all(torch.equal(one, two) for one, two in zip(weights(dense.supernet), weights(none.supernet), strict=True))
    assert np.array_equal(dense.history, none.history)
    assert np.array_equal(dense.history[:3], sparse.history[:3])
    assert not np.allclose(dense.history[-1], sparse.history[-1], atol=1e-3)


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.99])
def test_masks_hold_the_sparsity_that_was_asked_for_and_the_stem_has_none(space, halves, sparsity: float) -> None:
    search = Search(space, replace(SPEC, sparsity=sparsity), *halves)
    for step in search:
        assert kept_share(sparse_masks(search.supernet)) == pytest.approx(
            1 if step.step <= 2 else 1 - sparsity, abs=0.006
        )
    masks = sparse_masks(search.supernet)
    assert f"{STEM}.weight" not in masks
    assert "head.weight" in masks
    for mask in masks.values():
        assert int(mask.sum()) == mask.numel() - round(sparsity * mask.numel())


def test_near_1_a_search_still_ends(space, halves) -> None:
    search = Search(space, replace(SPEC, sparsity=0.9999, dense_steps=0), *halves).run()
    assert kept_share(sparse_masks(search.supernet)) == 0
    assert np.isfinite(search.history).all()
    assert search.architecture.nodes == 2


def test_one_candidate_and_one_edge_leave_nothing_to_learn(space, halves) -> None:
    only = replace(space, operations=("conv 3x3",), nodes=1)
    search = Search(only, SPEC, *halves).run()
    assert (np.array(search.history) == 1).all()
    assert [edge.operation for edge in search.architecture.edges] == ["conv 3x3"]


def test_a_search_that_was_left_ends_where_another_ends(space, halves) -> None:
    whole, left = (Search(space, replace(SPEC, sparsity=0.9), *halves) for _ in range(2))
    whole.run()
    for step in left:
        if step.step == 3:
            break
    assert left.step == 3
    left.run()
    assert np.array_equal(whole.history, left.history)
    assert len(left.history) == 7


def test_alpha_learns_from_validation_and_weights_from_training(space, halves) -> None:
    train, validation = halves
    images = [{tuple(image.flatten().tolist()) for image in task.train[0]} for task in halves]
    assert not images[0] & images[1]
    still = Search(space, replace(SPEC, lr_alpha=0.0), train, validation).run()
    assert np.array_equal(still.history[0], still.history[-1])
    one = Search(space, replace(SPEC, steps=1, dense_steps=1), train, validation).run()
    other = Search(space, replace(SPEC, steps=1, dense_steps=1), validation, validation).run()
    assert np.array_equal(one.history, other.history)
    pairs = zip(weights(one.supernet), weights(other.supernet), strict=True)
    assert not all(torch.equal(own, theirs) for own, theirs in pairs)


def test_a_loss_that_is_lost_says_where(space, halves) -> None:
    search = Search(space, SPEC, *halves)
    with torch.no_grad():
        search.supernet.stem.weight[0] = float("nan")
    with pytest.raises(NonFiniteError, match="finite loss at step 0"):
        search.run()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sparsity": 1.0}, "a share in"),
        ({"steps": 0}, "steps and batch >= 1"),
        ({"dense_steps": 7}, "dense_steps in"),
        ({"lr": 0.0}, "finite lr > 0"),
        ({"lr_alpha": float("inf")}, "lr_alpha >= 0"),
    ],
)
def test_refusals(changes: dict, said: str) -> None:
    with pytest.raises(Refusal, match=said):
        replace(SPEC, **changes)
