"""Rounds of pruning: nested masks, initial weights back to the bit, and controls that differ in one thing each."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from gatescope.errors import Refusal
from gatescope.models import Classifier
from gatescope.sparsifiers import PruneSpec, prune, rewound, shuffled, winning_tickets

SPEC = PruneSpec(share=0.3, shares=(("layers.2.weight", 0.15),))


def weights(model) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters()}


def test_rounds_follow_the_paper_step_by_step(model, train) -> None:
    """Against the procedure written out: train, rank by trained values, cut, rewind."""
    initial = deepcopy(weights(model))
    started = []

    def spied(network):
        started.append(deepcopy(weights(network)))
        return train(network)

    rounds = list(winning_tickets(model, spied, SPEC, 2))
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in initial.items() if weight.ndim == 2}
    for found, start in zip(rounds, started, strict=True):
        for name, weight in initial.items():
            assert torch.equal(start[name], weight * masks[name] if name in masks else weight)
            assert name not in masks or torch.equal(found.masks[name], masks[name])
        trained = weights(found.model)
        for name, mask in masks.items():
            share = 0.15 if name == "layers.2.weight" else 0.3
            alive = trained[name][mask].abs().sort().values
            cut = round(share * len(alive))
            masks[name] = mask & (trained[name].abs() > (alive[cut - 1] if cut else -1))
    assert [found.index for found in rounds] == [0, 1, 2]
    assert rounds[0].kept == 1
    assert rounds[2].kept == pytest.approx(0.7**2, abs=0.03)
    assert rounds[1].result[-1] < rounds[1].result[0]
    assert all(torch.equal(weights(model)[name], weight) for name, weight in initial.items())


def test_the_ticket_and_its_controls_differ_in_one_thing_each(model) -> None:
    masks = prune(model, SPEC)
    other = Classifier(model.config, init_seed=4)
    ticket, reinit, moved = rewound(model, masks), rewound(other, masks), rewound(model, shuffled(masks, 0))
    for name, mask in masks.items():
        own = weights(ticket)[name]
        assert torch.equal(own != 0, weights(reinit)[name] != 0)
        assert not torch.equal(own, weights(reinit)[name])
        assert not torch.equal(own != 0, weights(moved)[name] != 0)
        assert (own != 0).sum() == (weights(moved)[name] != 0).sum() == mask.sum()
        shared = (own != 0) & (weights(moved)[name] != 0)
        assert torch.equal(own[shared], weights(moved)[name][shared])


def test_no_rounds_trains_the_dense_model_and_fewer_are_refused(model, train) -> None:
    only = list(winning_tickets(model, train, SPEC, 0))
    assert len(only) == 1
    assert only[0].kept == 1
    with pytest.raises(Refusal, match="rounds >= 0"):
        winning_tickets(model, train, SPEC, -1)
