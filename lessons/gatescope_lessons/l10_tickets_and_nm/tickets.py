"""Winning tickets and their two controls, at every level of pruning, as learning curves."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import xarray as xr
from gatescope import records
from gatescope.records import Quantity
from gatescope.sparsifiers import Masks, PruneSpec, rewound, shuffled, winning_tickets
from torch import nn

from gatescope_lessons.l10_tickets_and_nm.runs import STEPS, learning_curve, lenet

#: One round: a fifth of every layer goes, a tenth of the output layer (Frankle and Carbin 2018, appendix).
ROUND = PruneSpec(share=0.2, shares=(("layers.2.weight", 0.1),))
#: What a pruned network starts from.
STARTS = ("ticket", "new weights", "random places")
#: Rounds at which all starts are trained: 100, 41, 11, 4.8 and 3.1 % of the weights stay.
ROUNDS = (0, 4, 10, 14, 16)

_ACCURACY = Quantity(
    "ticket_accuracy",
    ("start", "kept", "step"),
    "1",
    "accuracy on held-out digits",
    "share of 360 images whose largest logit is at their label",
    "Frankle and Carbin 2018 (arXiv 1803.03635)",
    "guessing: 0.1",
)


def starts(seed: int, index: int, masks: Masks) -> dict[str, nn.Module]:
    """The ticket of a round and its controls, untrained, all with as many weights in every layer: the ticket's places
    with weights drawn anew, and the ticket's initial weights at random places."""
    return {
        STARTS[0]: rewound(lenet(seed), masks),
        STARTS[1]: rewound(lenet(500_000 + 1_000 * seed + index), masks),
        STARTS[2]: rewound(lenet(seed), shuffled(masks, 1_000 * seed + index)),
    }


def measure_tickets(seed: int, rounds: Collection[int] = ROUNDS, steps: int = STEPS) -> xr.Dataset:
    """Learning curves of every start at ``rounds``. All starts of a round see the same batches, and every round others
    than the one before, so that a ticket does not owe its luck to an order of the data."""
    curves, kept = [], []

    def order(index: int) -> int:
        return 1_000 * seed + index

    counter = iter(range(max(rounds) + 1))
    for found in winning_tickets(
        lenet(seed), lambda model: learning_curve(model, order(next(counter)), steps), ROUND, max(rounds)
    ):
        if found.index not in rounds:
            continue
        own = {STARTS[0]: found.result}
        for name, model in starts(seed, found.index, found.masks).items():
            if name not in own:
                own[name] = learning_curve(model, order(found.index), steps)
        curves.append([list(own[name].values()) for name in STARTS])
        kept.append(round(found.kept, 4))
    data = np.array(curves).transpose(1, 0, 2)
    coords = {"start": list(STARTS), "kept": kept, "step": list(found.result)}
    return records.new({"ticket_accuracy": _ACCURACY.variable(data, coords, baseline_value=0.1)})
