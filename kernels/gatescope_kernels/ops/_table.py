"""All ops, a row each. Tests and the bench read this table and nothing else, so an op is a folder and a row here."""

from __future__ import annotations

from gatescope_kernels.ops._row import Case, Op
from gatescope_kernels.ops.block_sparse_attention.row import ROW as BLOCK_SPARSE_ATTENTION
from gatescope_kernels.ops.gated_attention.row import ROW as GATED_ATTENTION
from gatescope_kernels.ops.gated_linear_attention.row import ROW as GATED_LINEAR_ATTENTION
from gatescope_kernels.ops.nm_linear.row import ROW as NM_LINEAR
from gatescope_kernels.ops.polynorm.row import ROW as POLYNORM
from gatescope_kernels.ops.routed_experts.row import ROW as ROUTED_EXPERTS

#: Op name -> row. The name is the op's folder.
OPS: dict[str, Op] = {
    op.name: op
    for op in (BLOCK_SPARSE_ATTENTION, GATED_ATTENTION, GATED_LINEAR_ATTENTION, NM_LINEAR, POLYNORM, ROUTED_EXPERTS)
}

__all__ = ["OPS", "Case", "Op"]
