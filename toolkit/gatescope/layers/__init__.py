"""Layers: each takes a frozen spec and shows its taps."""

from gatescope.layers.attention import AttentionSpec
from gatescope.layers.mlp import MLP, MLPSpec

__all__ = ["MLP", "AttentionSpec", "MLPSpec"]
