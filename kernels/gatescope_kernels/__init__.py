"""Readable kernels: every op as an equation (reference), as fast torch (blockwise) and, where it exists, as Triton (fused).

The public surface is what this module names. Nothing heavy is imported before it is asked for.
"""

from gatescope_kernels.errors import Refusal
from gatescope_kernels.ops.gated_attention.api import (
    STATISTICS,
    AttentionStats,
    Visibility,
    gated_attention,
    gated_attention_with_stats,
)

__all__ = [
    "STATISTICS",
    "AttentionStats",
    "Refusal",
    "Visibility",
    "gated_attention",
    "gated_attention_with_stats",
]
