"""Rules that turn block scores into a block mask. The diagonal and the first block are always on."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gatescope_kernels.errors import Refusal
from gatescope_kernels.ops._common import FLOATS
from gatescope_kernels.ops.block_sparse_attention.problem import Grid
from gatescope_kernels.ops.block_sparse_attention.validate import check_block, check_causal

TOP, THRESHOLD = "top_blocks", "threshold_blocks"


def top_blocks(
    scores: Float[Tensor, "... nQ nS"],
    *,
    keep: int | None = None,
    share: float | None = None,
    causal: bool = True,
    lengths: tuple[int, int] | None = None,
    block: int = 64,
) -> Bool[Tensor, "... nQ nS"]:
    """The highest-scored key blocks of each query block.

    keep     key blocks of each query block, the ones that are always on among them
    share    in place of ``keep``: the share of its visible key blocks, rounded, in (0, 1]
    causal   only blocks that hold a key some query of the block may read
    lengths  (T, S) where they are not (nQ, nS) * block: places the diagonal as block_sparse_attention does
    block    positions of a block

    Always on are the first key block and those that the positions of the query block itself fall in, even where
    ``keep`` is smaller. A score of -inf is never chosen otherwise; of equal scores the earlier block is. The mask of a
    key-value group is that of scores [B G nQ nS].

    Raises Refusal unless exactly one of ``keep`` and ``share`` is given and in range, and for NaN scores.

    Source: the ratio rule of Gao et al. 2024, SeerAttention; always the first block and the local one in InfLLM-V2.
    """
    if (keep is None) == (share is None):
        got = "neither" if keep is None else "both"
        raise Refusal(TOP, "one of keep and share", got, "pass keep=8 for eight blocks a row or share=0.1 for a tenth")
    if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 1):
        raise Refusal(TOP, "keep: a whole number >= 1", repr(keep), "pass share=... for a fraction")
    if share is not None and not (_is_number(share) and 0 < share <= 1):
        raise Refusal(TOP, "share in (0, 1]", repr(share), "0.1 keeps a tenth of the visible blocks")
    visible, always = _places(TOP, scores, causal, lengths, block)
    number = visible.sum(-1, keepdim=True)
    number = number.clamp(max=keep) if share is None else (number * share).round()
    s = scores.detach().masked_fill(~visible, -torch.inf).masked_fill(always, torch.inf)
    rank = s.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    return ((rank < number) & (s > -torch.inf)) | always


def threshold_blocks(
    scores: Float[Tensor, "... nQ nS"],
    threshold: float,
    *,
    causal: bool = True,
    lengths: tuple[int, int] | None = None,
    block: int = 64,
) -> Bool[Tensor, "... nQ nS"]:
    """Key blocks whose score is above ``threshold``, and the ones that are always on; options as in top_blocks.

    Raises Refusal for a threshold that is NaN and for NaN scores.

    Source: the threshold rule of Gao et al. 2024, SeerAttention.
    """
    if not _is_number(threshold) or math.isnan(threshold):
        raise Refusal(THRESHOLD, "a threshold that is a number", repr(threshold), "scores above it are kept")
    visible, always = _places(THRESHOLD, scores, causal, lengths, block)
    return ((scores.detach() > threshold) & visible) | always


def _is_number(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _places(
    rule: str, scores: Tensor, causal: bool, lengths: tuple[int, int] | None, block: int
) -> tuple[Bool[Tensor, "nQ nS"], Bool[Tensor, "nQ nS"]]:
    """Which pairs of blocks may be on, and which always are."""
    if not isinstance(scores, Tensor):
        raise Refusal(rule, "scores [... nQ nS] as a tensor", type(scores).__name__, "convert it with torch.as_tensor")
    if scores.dim() < 2 or scores.numel() == 0:
        got = str(tuple(scores.shape))
        raise Refusal(rule, "scores [... nQ nS] with no dimension of 0", got, "pass one score a pair of blocks")
    if scores.dtype not in FLOATS:
        raise Refusal(rule, "scores in a floating dtype", str(scores.dtype), "convert with scores.float()")
    check_block(rule, block)
    check_causal(rule, causal)
    nQ, nS = scores.shape[-2:]
    if lengths is None:
        lengths = nQ * block, nS * block
    elif not isinstance(lengths, tuple) or len(lengths) != 2 or not all(isinstance(x, int) and x > 0 for x in lengths):
        raise Refusal(
            rule, "lengths: (T, S), whole numbers >= 1", repr(lengths), "pass the numbers of queries and keys"
        )
    T, S = lengths
    grid = Grid(T, S, block, causal)
    if (grid.nQ, grid.nS) != (nQ, nS):
        wanted = f"scores [... nQ nS] of (T, S) = {(T, S)} in blocks of {block}: {(grid.nQ, grid.nS)}"
        raise Refusal(rule, wanted, str((nQ, nS)), "pass the lengths and the block size that the scores were made with")
    if scores.isnan().any():
        raise Refusal(
            rule, "scores without NaN", f"{int(scores.isnan().sum())} NaN", "a NaN has no rank; find its cause"
        )
    visible = grid.visible(scores.device)
    first = torch.arange(nQ, device=scores.device)[:, None] * block + S - T
    last = (first + grid.tile - 1).clamp(max=S - 1)
    column = torch.arange(nS, device=scores.device)
    diagonal = (column >= first.div(block, rounding_mode="floor")) & (column <= last.div(block, rounding_mode="floor"))
    return visible, visible & (diagonal | (column == 0))
