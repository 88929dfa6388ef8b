"""Winning tickets: train, prune, go back to the initial weights, train again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import nn

from gatescope.errors import Refusal
from gatescope.sparsifiers.masks import Masks, dense_masks, hold_masks, kept_share
from gatescope.sparsifiers.prune import PruneSpec, prune


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """One round of iterative pruning.

    index   0 is the dense model
    masks   that were held while training
    model   as training left it
    result  what ``train`` returned
    """

    index: int
    masks: Masks
    model: nn.Module
    result: Any

    @property
    def kept(self) -> float:
        """Share of the masked weights that were there."""
        return kept_share(self.masks)


def rewound(initial: nn.Module, masks: Masks) -> nn.Module:
    """A copy of ``initial`` in which ``masks`` are held: with a ticket's masks and its own initial weights it is the
    ticket, with other initial weights the re-initialised control, with shuffled masks the random one."""
    model = deepcopy(initial)
    hold_masks(model, masks)
    return model


def winning_tickets(
    initial: nn.Module, train: Callable[[nn.Module], Any], spec: PruneSpec, rounds: int
) -> Iterator[Round]:
    """Iterative magnitude pruning with rewinding: the dense model, then ``rounds`` tickets, each trained.

    1. Train the network from its initial weights.
    2. Of the weights that stay, cut those that ``spec`` names, by their values after training.
    3. Set the others back to their initial values, and begin again.

    initial  is never changed
    train    trains a model in place; what it returns becomes `Round.result`

    Raises Refusal for a negative number of rounds.

    Source: Frankle and Carbin 2018, section 2 (iterative pruning with resetting).
    """
    if rounds < 0:
        raise Refusal("winning_tickets", "rounds >= 0", str(rounds), "0 trains the dense model alone")
    return _rounds(initial, train, spec, rounds)


def _rounds(initial: nn.Module, train: Callable[[nn.Module], Any], spec: PruneSpec, rounds: int) -> Iterator[Round]:
    masks = dense_masks(initial)
    for index in range(rounds + 1):
        model = rewound(initial, masks)
        result = train(model)
        yield Round(index, masks, model, result)
        masks = prune(model, spec, masks)


__all__ = ["Round", "rewound", "winning_tickets"]
