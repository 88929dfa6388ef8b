"""A trained softmax transformer read as a gated recurrent one: the same weights, other layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from gatescope.errors import Refusal
from gatescope.layers import AttentionSpec, LigerSpec
from gatescope.models import TinyLM


@torch.no_grad()
def to_liger(model: TinyLM, **choices: Any) -> TinyLM:
    """A copy of ``model`` whose softmax layers are Liger layers, with the same parameters and no others.

    ``choices`` are fields of `LigerSpec` other than ``attention``: decay, mix, window, denominator. Blocks that are
    Liger already are read anew, so choices may be changed on a converted model; those left out are then kept. Linear
    attention stays as it is.

    Raises Refusal for a model without a softmax layer, and as `LigerSpec` does.

    Source: Lan et al. 2025, Liger: Linearizing Large Language Models to Gated Recurrent Structures.
    """
    mixers = tuple(
        LigerSpec(attention=mixer, **choices)
        if isinstance(mixer, AttentionSpec)
        else replace(mixer, **choices)
        if isinstance(mixer, LigerSpec)
        else mixer
        for mixer in model.config.mixers
    )
    if not any(isinstance(mixer, LigerSpec) for mixer in mixers):
        raise Refusal("to_liger", "a model with softmax attention", "none in any block", "pass the trained transformer")
    converted = TinyLM(replace(model.config, attention=mixers)).to(model.embed.weight)
    converted.load_state_dict(model.state_dict())
    return converted.train(model.training)


__all__ = ["to_liger"]
