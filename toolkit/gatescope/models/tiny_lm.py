"""A decoder-only language model in one file: llama's layout, small enough to train on a laptop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gatescope import specs
from gatescope.errors import Refusal
from gatescope.layers import AttentionSpec, MLPSpec


@dataclass(frozen=True, slots=True)
class LMConfig:
    """Everything that fixes the function a `TinyLM` computes, its weights apart.

    vocab           token ids are 0..vocab-1
    d_model         D channels of the residual stream
    n_layers        L blocks
    norm_eps        epsilon inside every RMSNorm
    tie_embeddings  the output head uses the embedding matrix

    Raises Refusal for sizes below 1.
    """

    vocab: int
    d_model: int
    n_layers: int
    attention: AttentionSpec
    mlp: MLPSpec
    norm_eps: float = 1e-5
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab", "d_model", "n_layers"):
            if getattr(self, name) < 1:
                raise Refusal("LMConfig", f"{name} >= 1", f"{getattr(self, name)}", "pass a positive size")

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can carry."""
        return specs.to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LMConfig:
        """The inverse of `to_dict`, strict: unknown or missing keys and wrong types raise Refusal."""
        return specs.from_dict(cls, data)
