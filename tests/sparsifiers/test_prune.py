"""Cuts against torch.nn.utils.prune, what masks do to training, and that magnitude is not random."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from gatescope.errors import NonFiniteError, Refusal
from gatescope.sparsifiers import (
    PruneSpec,
    dense_masks,
    divergence,
    hold_masks,
    kept_share,
    mask_weights,
    prune,
    shuffled,
)
from gatescope.weights import weight_record
from jaxtyping import TypeCheckError
from torch.nn.utils import prune as torch_prune

NAMES = ("layers.0.weight", "layers.1.weight", "layers.2.weight")


def torch_masks(model, cut) -> dict[str, torch.Tensor]:
    """The masks of torch's own pruning after ``cut(layers)``."""
    other = deepcopy(model)
    cut(list(other.layers))
    return {name: layer.weight_mask.bool() for name, layer in zip(NAMES, other.layers, strict=True)}


def same(masks, others) -> bool:
    return masks.keys() == others.keys() and all(torch.equal(masks[name], others[name]) for name in masks)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.777, 0.999])
def test_a_cut_by_layer_is_that_of_torch(model, share: float) -> None:
    def cut(layers) -> None:
        for layer in layers:
            torch_prune.l1_unstructured(layer, "weight", amount=share)

    assert same(prune(model, PruneSpec(share=share)), torch_masks(model, cut))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.777, 0.999])
def test_a_global_cut_is_that_of_torch(model, share: float) -> None:
    def cut(layers) -> None:
        torch_prune.global_unstructured(
            [(layer, "weight") for layer in layers], torch_prune.L1Unstructured, amount=share
        )

    assert same(prune(model, PruneSpec(share=share, scope="global")), torch_masks(model, cut))


def test_cuts_one_after_another_with_half_the_rate_for_the_output_are_those_of_torch(model) -> None:
    spec, masks = PruneSpec(share=0.2, shares=((NAMES[2], 0.1),)), None
    for _ in range(4):
        masks = prune(model, spec, masks)

    def cut(layers) -> None:
        for _ in range(4):
            for layer, share in zip(layers, (0.2, 0.2, 0.1), strict=True):
                torch_prune.l1_unstructured(layer, "weight", amount=share)

    assert same(masks, torch_masks(model, cut))
    assert kept_share({NAMES[2]: masks[NAMES[2]]}) == pytest.approx(0.9**4, abs=0.01)


def test_what_stays_is_larger_than_what_goes(model) -> None:
    weights = dict(model.named_parameters())
    by_layer, random = prune(model, PruneSpec(share=0.5)), prune(model, PruneSpec(share=0.5, by="random"))
    for name in NAMES:
        size = weights[name].abs()
        assert size[by_layer[name]].min() >= size[~by_layer[name]].max()
        assert size[random[name]].min() < size[~random[name]].max()
        assert by_layer[name].sum() == random[name].sum()


def test_global_and_by_layer_differ_where_layers_differ_in_scale(model) -> None:
    with torch.no_grad():
        model.layers[0].weight.mul_(0.01)
    everywhere = prune(model, PruneSpec(share=0.5, scope="global"))
    assert everywhere[NAMES[0]].double().mean() < 0.4
    assert everywhere[NAMES[1]].all()
    assert kept_share(everywhere) == pytest.approx(0.5, abs=1e-3)


def test_of_equal_weights_the_first_stay(model) -> None:
    with torch.no_grad():
        model.layers[2].weight.fill_(0.5)
    kept = prune(model, PruneSpec(share=0.75))[NAMES[2]].flatten()
    assert kept.nonzero().flatten().tolist() == list(range(40))


def test_random_cuts_are_seeded(model) -> None:
    first, again, other = (prune(model, PruneSpec(share=0.5, by="random", seed=seed)) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


def test_shuffled_masks_keep_as_many_elsewhere(model) -> None:
    masks = prune(model, PruneSpec(share=0.7))
    moved = shuffled(masks, 0)
    assert {name: int(mask.sum()) for name, mask in moved.items()} == {
        name: int(mask.sum()) for name, mask in masks.items()
    }
    assert divergence(masks, moved) == pytest.approx(2 * 0.3 * 0.7, abs=0.04)
    assert not same(moved, shuffled(masks, 1))


def test_divergence_is_a_count_over_all_weights(model) -> None:
    before = dense_masks(model)
    after = {name: mask.clone() for name, mask in before.items()}
    after[NAMES[1]][0, :3] = False
    assert divergence(before, after) == pytest.approx(3 / (64 * 24 + 24 * 16 + 160))
    assert divergence(before, before) == 0


def test_held_weights_stay_zero_and_the_others_learn(model, train) -> None:
    masks = prune(model, PruneSpec(share=0.9))
    before = deepcopy(model.state_dict())
    release = hold_masks(model, masks)
    losses = train(model)
    assert losses[-1] < losses[0]
    for name, mask in masks.items():
        weight = dict(model.named_parameters())[name]
        assert (weight[~mask] == 0).all()
        assert (weight[mask] != before[name][mask]).float().mean() > 0.2
    found = weight_record(model).weight_zeros.sel(parameter=list(NAMES))
    assert found.values == pytest.approx([0.9] * 3, abs=0.01)
    release()
    train(model)
    assert all((dict(model.named_parameters())[name] == 0).sum() < 0.8 * (~mask).sum() for name, mask in masks.items())


def test_pruning_once_does_not_bind_training(model, train) -> None:
    masks = prune(model, PruneSpec(share=0.9))
    mask_weights(model, masks)
    assert all((dict(model.named_parameters())[name] == 0).sum() == (~mask).sum() for name, mask in masks.items())
    train(model)
    assert all((dict(model.named_parameters())[name] == 0).sum() < 0.8 * (~mask).sum() for name, mask in masks.items())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PruneSpec(share=1.0), "a share in"),
        (lambda: PruneSpec(share=-0.1), "a share in"),
        (lambda: PruneSpec(share=float("nan")), "a share in"),
        (lambda: PruneSpec(shares=(("head", 1.0),)), "a share in"),
        (lambda: PruneSpec(by="size"), "by"),
        (lambda: PruneSpec(scope="row"), "scope"),
        (lambda: PruneSpec(scope="global", shares=((NAMES[0], 0.1),)), "no shares of single matrices"),
        (lambda: kept_share({}), "masks"),
    ],
)
def test_refusals(make, said: str) -> None:
    # The shape checker of tests may be faster.
    with pytest.raises((Refusal, TypeCheckError), match=said):
        make()


def test_refusals_of_models_and_masks_that_do_not_fit(model) -> None:
    with pytest.raises(Refusal, match=r"shares of layers\.0\.weight"):
        prune(model, PruneSpec(shares=(("head", 0.1),)))
    with pytest.raises(Refusal, match="weight matrices"):
        prune(torch.nn.ReLU(), PruneSpec())
    with pytest.raises(Refusal, match="named and shaped"):
        mask_weights(model, {NAMES[0]: torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(Refusal, match="masks of"):
        divergence(dense_masks(model), {})
    with torch.no_grad():
        model.layers[1].weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"finite layers\.1\.weight"):
        prune(model, PruneSpec())
