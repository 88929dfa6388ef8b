"""Models that show their taps."""

from gatescope.layers import AttentionSpec, MLPSpec
from gatescope.models.tiny_lm import LMConfig

__all__ = ["AttentionSpec", "LMConfig", "MLPSpec"]
