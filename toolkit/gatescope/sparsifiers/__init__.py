"""Sparsifiers: which weights of a model stay. Masks by magnitude or at random, winning tickets, N:M from scratch,
layers that read a share of their weights.

Masks are a plain dictionary, name of a parameter -> bool tensor of its shape, True where the weight stays. What they do
not name stays whole.
"""

from gatescope.sparsifiers.masks import Masks, dense_masks, divergence, hold_masks, kept_share, mask_weights, shuffled
from gatescope.sparsifiers.nm import NMLinear, NMSpec, nm_masks, to_nm
from gatescope.sparsifiers.prune import PruneSpec, prune
from gatescope.sparsifiers.sparse import SparseConv, SparseLinear, SparseSpec, set_sparsity, sparse_masks, to_sparse
from gatescope.sparsifiers.tickets import Round, rewound, winning_tickets

__all__ = [
    "Masks",
    "NMLinear",
    "NMSpec",
    "PruneSpec",
    "Round",
    "SparseConv",
    "SparseLinear",
    "SparseSpec",
    "dense_masks",
    "divergence",
    "hold_masks",
    "kept_share",
    "mask_weights",
    "nm_masks",
    "prune",
    "rewound",
    "set_sparsity",
    "shuffled",
    "sparse_masks",
    "to_nm",
    "to_sparse",
    "winning_tickets",
]
