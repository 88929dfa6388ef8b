"""Layers: each takes a frozen spec and shows its taps."""

from gatescope.layers.attention import Attention, AttentionSpec
from gatescope.layers.gate import Gate, score_shape
from gatescope.layers.mlp import MLP, MLPSpec
from gatescope.layers.moe import MoE, MoESpec

__all__ = ["MLP", "Attention", "AttentionSpec", "Gate", "MLPSpec", "MoE", "MoESpec", "score_shape"]
