"""A byte language model on text it was not trained on, at the length of its training and beyond it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from gatescope import records
from gatescope.binding import instruments
from gatescope.errors import Refusal
from gatescope.models import AttentionSpec, LMConfig, TinyLM, next_token_nll
from gatescope.records import Quantity
from gatescope.scope import Scope
from gatescope.tasks.text import BYTE_VOCAB, Bytes

#: Tokens of a sequence in training, BOS included.
LENGTH = 64
TASK = Bytes(length=LENGTH, part="train")
#: Lengths, as multiples of the trained one, that a trained model reads.
MULTIPLES = (1, 2, 4, 8)

_GUESS = "uniform guessing: log(vocab)"
_TOPICS = "Python's help topics (pydoc_data.topics), the last tenth"
_LOSS = Quantity(
    "loss", (), "nats", "held-out loss a byte", f"-log p(next byte), mean over {LENGTH - 1} bytes", _TOPICS, _GUESS
)


def held_out(size: int = 128) -> Int[Tensor, "B T"]:
    """Crops of the longest length that is read, the same for every run, of text that no crop of `TASK` shows."""
    return Bytes(length=LENGTH * MULTIPLES[-1], part="held_out").batch(20251106, size)[0]


def with_less_past(tokens: Int[Tensor, "B T"], length: int) -> Int[Tensor, "B n"]:
    """The last ``length`` - 1 bytes of every crop, behind its BOS."""
    return torch.cat((tokens[:, :1], tokens[:, tokens.shape[1] - length + 1 :]), dim=1)


def stretched(config: LMConfig, multiple: int) -> LMConfig:
    """``config`` with RoPE's base enlarged for sequences ``multiple`` times as long.

        theta' = theta * multiple^(K / (K - 2))

    The slowest pair of channels then turns ``multiple`` times more slowly, the fastest as before: NTK-aware scaling
    (Peng et al. 2023, YaRN, section 3.1), which YaRN itself refines by pairs of channels and a temperature.

    Raises Refusal for attention without RoPE, and for two channels a head, which have one pair.
    """
    attention = config.attention
    if not isinstance(attention, AttentionSpec) or attention.rope_theta is None or attention.head_dim < 4:
        raise Refusal("stretched", "one AttentionSpec with RoPE over 4 channels or more", f"{attention}", "train it so")
    theta = attention.rope_theta * multiple ** (attention.head_dim / (attention.head_dim - 2))
    return replace(config, attention=replace(attention, rope_theta=theta))


@torch.no_grad()
def loss_at(model: TinyLM, tokens: Int[Tensor, "B T"], multiple: int) -> float:
    """Nats a byte over the last `LENGTH` - 1 bytes of ``tokens``, read behind ``multiple`` times as many tokens.

    At every multiple the same bytes are predicted and only their past grows, so a difference between lengths is not one
    between texts. Beyond the trained length every scored position is then one that training never showed; a mean over
    all positions would hide them behind the first ones, which have no longer past.
    """
    nll = next_token_nll(model, with_less_past(tokens, LENGTH * multiple))
    return float(nll[:, 1 - LENGTH :].double().mean())


def evaluate(model: TinyLM, tokens: Int[Tensor, "B T"]) -> xr.Dataset:
    """What the instruments of `binding` see of ``tokens`` cut to the trained length, with ``loss`` there."""
    with Scope(model, probes=instruments(model.config)) as scope:
        loss = loss_at(model, tokens, 1)
    seen = scope.record(created=False)
    found = records.new({"loss": _LOSS.variable(loss, baseline_value=np.log(BYTE_VOCAB))})
    return records.merge([seen, found], **seen.attrs)


def beyond(model: TinyLM, tokens: Int[Tensor, "B T"]) -> xr.Dataset:
    """``loss_at_length`` and its rise from the trained length, along ``length``; the same with the names ending in
    ``_stretched`` for these weights under `stretched`, where there is RoPE."""
    found = _along({multiple: loss_at(model, tokens, multiple) for multiple in MULTIPLES}, "")
    attention = model.config.attention
    if isinstance(attention, AttentionSpec) and attention.rope_theta is None:
        return records.new(found)
    wider = {multiple: loss_at(_rebuilt(model, multiple), tokens, multiple) for multiple in MULTIPLES}
    return records.new(found | _along(wider, "_stretched"))


def _rebuilt(model: TinyLM, multiple: int) -> TinyLM:
    """The same weights under `stretched`."""
    found = TinyLM(stretched(model.config, multiple))
    found.load_state_dict(model.state_dict())
    return found.eval()


def _along(losses: Mapping[int, float], suffix: str) -> dict[str, xr.DataArray]:
    """Losses by multiple as a variable, and its rise as another."""
    how, said = (", theta' = theta (T / trained T)^(K / (K - 2))", ", RoPE stretched") if suffix else ("", "")
    at = Quantity(
        f"loss_at_length{suffix}",
        ("length",),
        "nats",
        f"held-out loss a byte{said}",
        f"-log p(next byte), mean over the last {LENGTH - 1} bytes of T, the same bytes at every T{how}",
        _TOPICS,
        _GUESS,
    )
    rise = Quantity(
        f"rise_at_length{suffix}",
        ("length",),
        "nats",
        f"rise of the loss beyond the trained length{said}",
        f"{at.name}(T) - {at.name}({LENGTH})",
        "studies.points.byte_lm",
        "predictions that do not depend on the longer past: 0",
    )
    labels = {"length": [LENGTH * multiple for multiple in losses]}
    values = np.array(list(losses.values()))
    return {
        at.name: at.variable(values, labels, baseline_value=np.log(BYTE_VOCAB)),
        rise.name: rise.variable(values - losses[1], labels, baseline_value=0.0),
    }


__all__ = ["LENGTH", "MULTIPLES", "TASK", "beyond", "evaluate", "held_out", "loss_at", "stretched", "with_less_past"]
