"""Block-sparse attention: what callers see. Validates, then dispatches to one implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from jaxtyping import Bool, Float
from torch import Tensor

from gatescope_kernels.errors import Refusal
from gatescope_kernels.ops._common import choose
from gatescope_kernels.ops.block_sparse_attention import block_max, blockwise, reference
from gatescope_kernels.ops.block_sparse_attention.rules import threshold_blocks, top_blocks
from gatescope_kernels.ops.block_sparse_attention.validate import (
    BLOCK_MAX,
    OPERATOR,
    check_mask,
    resolve,
    unfit_for_fused,
)

_Implementation = tuple[Callable[..., tuple[Tensor, ...]], Callable[..., Tensor]]
Impl = Literal["auto", "reference", "blockwise", "fused"]

__all__ = [
    "block_max_attention",
    "block_sparse_attention",
    "block_sparse_attention_with_lse",
    "threshold_blocks",
    "top_blocks",
]


def _fused_attend(*arguments: Any) -> tuple[Tensor, ...]:
    from gatescope_kernels.ops.block_sparse_attention import fused

    return fused.attend(*arguments)


def _fused_block_max(*arguments: Any) -> Tensor:
    from gatescope_kernels.ops.block_sparse_attention import fused

    return fused.block_max(*arguments)


#: Implementation -> (attention, block maximum).
IMPLEMENTATIONS: dict[str, _Implementation] = {
    "reference": (reference.attend, reference.block_max),
    "blockwise": (blockwise.attend, block_max.block_max),
    "fused": (_fused_attend, _fused_block_max),
}


def block_sparse_attention(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S V"],
    block_mask: Bool[Tensor, "B M nQ nS"],
    *,
    causal: bool = True,
    block: int = 64,
    scale: float | None = None,
    impl: Impl = "auto",
) -> Float[Tensor, "B H T V"]:
    """Softmax attention over the key blocks that a mask selects for each query block.

        S_ij = scale * q_i.k_j   over keys j that i may read and whose block (i // block, j // block) is on
        Y_i  = sum_j exp(S_ij - L_i) v_j         L_i = log sum_j exp(S_ij)

    block_mask  True where a block is read: for each query head, M = H, or for each key-value head, M = G, which reads
                keys once for all query heads of the group; nQ = ceil(T / block), nS = ceil(S / block)
    causal      j <= i + S - T, token by token: the last query sees the last key. What the mask selects beyond costs
                nothing
    scale       None is 1 / sqrt(K)
    impl        "auto" is "fused" (Triton) on a GPU where it fits, "blockwise" elsewhere; "reference" materialises
                T x S and is for tests

    Query head h reads key-value head h // (H / G). fp16 and bf16 accumulate in fp32; the output keeps q.dtype. A row
    that reads no key has output 0. Time and memory follow the number of selected blocks. The mask carries no gradient:
    a gate that makes it learns from block_max_attention. A NaN in q shows in its row, one in a key or
    value in the rows that read it and perhaps in others of their query block, and never as a zero.

    Raises Refusal for shapes, dtypes, devices or options that do not fit, and for an unknown ``impl``.

    Source: Gao et al. 2024, SeerAttention: Learning Intrinsic Sparse Attention in Your LLMs.
    """
    return _attend(q, k, v, block_mask, causal, block, scale, impl, with_lse=False)[0]


def block_sparse_attention_with_lse(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S V"],
    block_mask: Bool[Tensor, "B M nQ nS"],
    *,
    causal: bool = True,
    block: int = 64,
    scale: float | None = None,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H T"]]:
    """As block_sparse_attention, and L_i in nats: float32 (float64 for float64 inputs), -inf on a row without a key.

    L carries gradients. Two masks that share no block combine exactly: the outputs are averaged with weights
    exp(L - logaddexp(L, L')).

    Raises Refusal as block_sparse_attention does.
    """
    out, lse = _attend(q, k, v, block_mask, causal, block, scale, impl, with_lse=True)
    return out, lse


def block_max_attention(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    *,
    causal: bool = True,
    block: int = 64,
    normalise: bool = False,
    scale: float | None = None,
    impl: Impl = "auto",
) -> Float[Tensor, "B H nQ nS"]:
    """The largest attention probability of each block of dense attention: what a learned block gate is taught.

        M_ab = max over queries i of block a and keys j of block b of A_ij         A = softmax(scale * q.k)
        with ``normalise``: M_ab / sum_b M_ab, a distribution over the key blocks of each query block

    Float32 (float64 for float64 inputs). A block without a visible pair has 0, and so has all of a row of blocks that
    sees no key, normalised or not. A target: it carries no gradient. For a gate a key-value group take the maximum over
    the group's query heads, before normalising. A NaN in q or k shows in every block of the rows that read it.

    Raises Refusal for shapes, dtypes, devices or options that do not fit, and for an unknown ``impl``.

    Source: Gao et al. 2024, SeerAttention, the ground truth of its gate (block maximum, row-normalised, KL loss).
    """
    problem = resolve(BLOCK_MAX, {"q": q, "k": k}, causal, block, scale)
    if not isinstance(normalise, bool):
        raise Refusal(BLOCK_MAX, "normalise: True or False", repr(normalise), "True makes each row sum to 1")
    largest = choose(BLOCK_MAX, impl, IMPLEMENTATIONS, q, unfit_for_fused(q))[1](q, k, problem)
    if not normalise:
        return largest
    total = largest.sum(-1, keepdim=True)
    return largest / total.masked_fill(total == 0, 1.0)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block_mask: Tensor,
    causal: bool,
    block: int,
    scale: float | None,
    impl: str,
    with_lse: bool,
) -> tuple[Tensor, ...]:
    problem = resolve(OPERATOR, {"q": q, "k": k, "v": v}, causal, block, scale)
    check_mask(block_mask, q, problem)
    out, *lse = choose(OPERATOR, impl, IMPLEMENTATIONS, q, unfit_for_fused(q, v))[0](
        q, k, v, block_mask, problem, with_lse
    )
    return out.to(q.dtype), *lse
