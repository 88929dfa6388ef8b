"""Models that show their taps."""

from gatescope.layers import AttentionSpec, MLPSpec, MoESpec
from gatescope.models.loss import next_token_nll
from gatescope.models.readout import readout_of
from gatescope.models.tiny_lm import Block, LMConfig, TinyLM

__all__ = ["AttentionSpec", "Block", "LMConfig", "MLPSpec", "MoESpec", "TinyLM", "next_token_nll", "readout_of"]
