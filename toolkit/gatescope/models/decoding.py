"""One token after another: a model read from what it carries along, not from its whole past."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gatescope.errors import Refusal
from gatescope.layers import AttentionSpec
from gatescope.models.tiny_lm import TinyLM


class Decoder:
    """Reads a `TinyLM` token by token; its logits are those of the whole sequence read at once.

        decoder = Decoder(model)
        for token in tokens: logits = decoder.step(token[None])        [B vocab]

    Blocks must be able to step: linear attention and Liger. For softmax attention with a cache of all keys and values
    convert with mix 0 and window None (`surgery.to_liger`), which computes the same. Experts are routed as usual.

    Raises Refusal for a model with other attention, or batch < 1.
    """

    def __init__(self, model: TinyLM, batch: int = 1) -> None:
        if batch < 1:
            raise Refusal("Decoder", "batch >= 1", f"{batch}", "decode at least one sequence")
        for layer, mixer in enumerate(model.config.mixers):
            if isinstance(mixer, AttentionSpec):
                raise Refusal(
                    "Decoder",
                    "attention that steps from a state in every block",
                    f"softmax attention in block {layer}",
                    "to_liger(model, mix=0, window=None) computes the same from a cache of keys and values",
                )
        self.model = model
        self.blocks: list[Any] = list(model.blocks)
        self.states: list[Any] = [block.attention.start(batch) for block in self.blocks]

    @property
    def carried(self) -> int:
        """Numbers carried from token to token now, all blocks together."""
        parts = (getattr(state, field.name) for state in self.states for field in fields(state))
        return sum(part.numel() for part in parts if isinstance(part, Tensor))

    @torch.no_grad()
    def step(self, tokens: Int[Tensor, " B"]) -> Float[Tensor, "B vocab"]:
        """Read one token of every sequence; logits of the next one."""
        x = self.model.embed(tokens)
        for place, block in enumerate(self.blocks):
            update, self.states[place] = block.attention.step(block.attention_norm(x), self.states[place])
            x = x + update
            if block.mlp is not None:
                x = x + block.mlp(block.mlp_norm(x)[:, None])[:, 0]
        return self.model.readout(x)


__all__ = ["Decoder"]
