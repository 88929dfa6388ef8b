"""Readable kernels: every op as an equation (reference), as fast torch (blockwise), and in time as Triton (fused).

The public surface is what this module names. Nothing heavy is imported before it is asked for: the refusals and the
console script need no torch, and neither does whoever only reads records.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gatescope_kernels.errors import Refusal

if TYPE_CHECKING:
    from gatescope_kernels.from_source import compile_source
    from gatescope_kernels.ops.block_sparse_attention.api import (
        block_max_attention,
        block_sparse_attention,
        block_sparse_attention_with_lse,
        threshold_blocks,
        top_blocks,
    )
    from gatescope_kernels.ops.gated_attention.api import (
        STATISTICS,
        AttentionStats,
        Visibility,
        gated_attention,
        gated_attention_with_stats,
    )
    from gatescope_kernels.ops.gated_linear_attention.api import gated_linear_attention
    from gatescope_kernels.ops.nm_linear.api import (
        compress_2_4,
        decompress_2_4,
        mask_divergence,
        nm_linear,
        nm_mask,
        nm_valid,
    )
    from gatescope_kernels.ops.polynorm.api import polynorm, polyrelu
    from gatescope_kernels.ops.routed_experts.api import routed_experts
    from gatescope_kernels.ops.routed_experts.router import route

__all__ = [
    "STATISTICS",
    "AttentionStats",
    "Refusal",
    "Visibility",
    "block_max_attention",
    "block_sparse_attention",
    "block_sparse_attention_with_lse",
    "compile_source",
    "compress_2_4",
    "decompress_2_4",
    "gated_attention",
    "gated_attention_with_stats",
    "gated_linear_attention",
    "mask_divergence",
    "nm_linear",
    "nm_mask",
    "nm_valid",
    "polynorm",
    "polyrelu",
    "route",
    "routed_experts",
    "threshold_blocks",
    "top_blocks",
]

_APIS = (
    "gatescope_kernels.from_source",
    "gatescope_kernels.ops.block_sparse_attention.api",
    "gatescope_kernels.ops.gated_attention.api",
    "gatescope_kernels.ops.gated_linear_attention.api",
    "gatescope_kernels.ops.nm_linear.api",
    "gatescope_kernels.ops.polynorm.api",
    "gatescope_kernels.ops.routed_experts.api",
    "gatescope_kernels.ops.routed_experts.router",
)


def __getattr__(name: str) -> Any:
    """A public name, imported at its first use (PEP 562)."""
    if name in __all__:
        for api in map(import_module, _APIS):
            if hasattr(api, name):
                globals()[name] = getattr(api, name)
                return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, whether imported yet or not."""
    return sorted({*globals(), *__all__})
