"""Layers: each takes a frozen spec and shows its taps."""

from gatescope.layers.attention import Attention, AttentionSpec
from gatescope.layers.balancing import AuxiliaryLoss, Balancer, BiasUpdate
from gatescope.layers.block_gate import BlockGate, BlockGateSpec, BlockRule, distillation_loss
from gatescope.layers.block_gates import BlockExamples, BlockGates
from gatescope.layers.decay import half_life
from gatescope.layers.gate import Gate, score_shape
from gatescope.layers.hopfield import Hopfield, HopfieldSpec
from gatescope.layers.liger import LigerAttention, LigerSpec, LigerState
from gatescope.layers.linear_attention import LinearAttention, LinearAttentionSpec, LinearState
from gatescope.layers.mlp import MLP, MLPSpec
from gatescope.layers.moe import MoE, MoESpec
from gatescope.layers.routers import DenseToSparse

__all__ = [
    "MLP",
    "Attention",
    "AttentionSpec",
    "AuxiliaryLoss",
    "Balancer",
    "BiasUpdate",
    "BlockExamples",
    "BlockGate",
    "BlockGateSpec",
    "BlockGates",
    "BlockRule",
    "DenseToSparse",
    "Gate",
    "Hopfield",
    "HopfieldSpec",
    "LigerAttention",
    "LigerSpec",
    "LigerState",
    "LinearAttention",
    "LinearAttentionSpec",
    "LinearState",
    "MLPSpec",
    "MoE",
    "MoESpec",
    "distillation_loss",
    "half_life",
    "score_shape",
]
