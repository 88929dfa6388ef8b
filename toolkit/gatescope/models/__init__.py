"""Models that show their taps."""

from gatescope.layers import AttentionSpec, MLPSpec, MoESpec
from gatescope.models.classifier import Classifier, ClassifierConfig, accuracy
from gatescope.models.decoding import Decoder
from gatescope.models.loss import next_token_nll
from gatescope.models.readout import readout_of
from gatescope.models.tiny_lm import Block, LMConfig, TinyLM

__all__ = [
    "AttentionSpec",
    "Block",
    "Classifier",
    "ClassifierConfig",
    "Decoder",
    "LMConfig",
    "MLPSpec",
    "MoESpec",
    "TinyLM",
    "accuracy",
    "next_token_nll",
    "readout_of",
]
