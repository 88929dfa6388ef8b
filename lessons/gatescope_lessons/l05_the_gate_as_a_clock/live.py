"""A trained model under a clock that runs faster or slower: recall, decays and influence, computed anew."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from gatescope import records
from gatescope.errors import Refusal
from gatescope.layers import half_life
from gatescope.models import TinyLM
from gatescope.records import Quantity
from gatescope.taps import GateScores, Handler, LinearAttentionCall, attached
from gatescope.tasks import MQAR
from gatescope_kernels import gated_linear_attention
from jaxtyping import Float
from torch import Tensor

#: More tokens than this make a map too large to read and a panel too slow to turn.
LONGEST = 260
_YANG = "Yang et al. 2023 (arXiv 2312.06635)"
_KEPT = Quantity("kept", ("token",), "1", "kept of the state", "mean over channels of alpha_t", _YANG, "no decay: 1")
_INFLUENCE = Quantity(
    "influence",
    ("token", "key"),
    "1",
    "weight of a token's value in an output",
    "d o_i / d v_j",
    _YANG,
    "linear attention of random unit keys: 0 on average",
)


@dataclass(eq=False)
class Clock(Handler):
    """Runs every decay gate ``speed`` times as fast: alpha' = alpha^speed.

    0 forgets nothing, 1 is the model as it is, 2 forgets in one token what it forgot in two.
    """

    speed: float
    sites = frozenset({"gate"})

    def edit(self, site: str, layer: int | None, value: Any) -> Any:
        """The gate with its decays to the power of the speed; other gates are left alone."""
        if not isinstance(value, GateScores) or value.position != "decay":
            return value
        return replace(value, scores=value.scores**self.speed)


class _Calls(Handler):
    """Keeps the linear attention of every layer."""

    sites = frozenset({"linear_attention"})

    def __init__(self) -> None:
        self.calls: dict[int | None, LinearAttentionCall] = {}

    def watch(self, event: Any) -> None:
        self.calls[event.layer] = event.value


def influence(call: LinearAttentionCall) -> Float[Tensor, "B H T T"]:
    """The weight of every value in every output: the operator on values that are the unit vectors.

    Outputs are linear in the values, under the delta rule as well, so this is all there is to know about a head.
    """
    length = call.v.shape[2]
    unit = torch.eye(length, dtype=call.v.dtype).expand(*call.v.shape[:2], -1, -1)
    return gated_linear_attention(**replace(call, v=unit).arguments())[0]


def task_of(pairs: int, segments: int) -> MQAR:
    """A sequence with no room to spare. Raises Refusal for one that is too long to look at."""
    length = segments * (4 * pairs + (segments > 1))
    if length > LONGEST:
        got = f"{length} ({pairs} pairs in {segments} segments)"
        raise Refusal("clock", f"at most {LONGEST} tokens", got, "take fewer pairs or fewer segments")
    return MQAR(pairs=pairs, length=length, segments=segments)


@torch.no_grad()
def turned(model: TinyLM, task: MQAR, speed: float, *, size: int = 64, seed: int = 20251106) -> xr.Dataset:
    """The model on held-out sequences with its clock at ``speed``; what the last linear layer does with the first one.

    accuracy            share of questions answered, in the attributes, by segment in ``accuracy_by_segment``
    kept(token)         what that layer's gate keeps of its state; its half-life at ordinary tokens and at boundaries
                        in the attributes
    influence(token, key)

    Raises Refusal for a model without linear attention, or one without decay at another speed than 1.
    """
    if "linear_attention" not in model.tap_sites:
        raise Refusal("clock", "a model with linear attention", "softmax alone", "choose another model")
    if "gate" not in model.tap_sites and speed != 1:
        raise Refusal("clock", "a model whose state decays", "one that forgets nothing", "leave the speed at 1")
    tokens, asked = task.batch(seed, size)
    calls, clock = _Calls(), [Clock(speed)] if "gate" in model.tap_sites else []
    with attached(model, *clock, calls):
        right = model(tokens)[:, :-1].argmax(-1) == tokens[:, 1:]
    right, asked = right.double(), asked[:, :-1].double()
    part = task.length // task.segments
    by_segment = [
        float((right * asked)[:, start : start + part].sum() / asked[:, start : start + part].sum())
        for start in range(0, task.length, part)
    ]
    call = calls.calls[max(layer for layer in calls.calls if layer is not None)]
    kept = call.g.exp().mean((1, 3))
    boundary = tokens == task.BOUNDARY if task.segments > 1 else torch.zeros_like(tokens, dtype=torch.bool)
    record = records.new(
        {
            "kept": _KEPT.variable(kept[0].numpy().astype(float), baseline_value=1.0),
            "influence": _INFLUENCE.variable(influence(_first(call))[0].mean(0).numpy().astype(float)),
        },
        accuracy=float((right * asked).sum() / asked.sum()),
        accuracy_by_segment=by_segment,
        half_life=half_life(float(kept[~boundary].log().mean().exp())),
        kept_at_boundary=float(kept[boundary].mean()) if boundary.any() else math.nan,
        note=f"{task.pairs} pairs, {task.segments} segment{'s' if task.segments > 1 else ''}; speed {speed:g}",
    )
    return record.assign_coords(piece=("token", spell(tokens[0], task)))


def _first(call: LinearAttentionCall) -> LinearAttentionCall:
    beta = None if call.beta is None else call.beta[:1]
    return replace(call, q=call.q[:1], k=call.k[:1], v=call.v[:1], g=call.g[:1], beta=beta)


def spell(tokens: Tensor, task: MQAR) -> list[str]:
    """Tokens as words: | for a boundary, k7 for a key, v12 for a value."""
    first = task.first_value
    return [
        "| " if token == task.BOUNDARY else f"k{token} " if token < first else f"v{token - first} "
        for token in tokens.tolist()
    ]


def left_after(score: float, tokens: int) -> float:
    """The share of a memory that is left after ``tokens`` tokens at a decay of ``score``."""
    return float(np.float64(score) ** tokens)


__all__ = ["LONGEST", "Clock", "influence", "left_after", "spell", "task_of", "turned"]
