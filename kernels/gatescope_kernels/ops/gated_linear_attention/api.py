"""Gated linear attention: what callers see. Validates, then dispatches to one implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from gatescope_kernels.ops._common import accumulation_dtype, choose
from gatescope_kernels.ops.gated_linear_attention import blockwise, reference
from gatescope_kernels.ops.gated_linear_attention.validate import OPERATOR, resolve, unfit_for_fused

Impl = Literal["auto", "reference", "blockwise", "fused"]

__all__ = ["Impl", "gated_linear_attention"]


def _wide(attend: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """``attend`` on arguments in the dtype of accumulation."""

    def run(*arguments: Any) -> tuple[Tensor, Tensor]:
        (q, *_, scale), wide = arguments, accumulation_dtype(arguments[0])
        out, final = attend(*(x if x is None else x.to(wide) for x in arguments[:-1]), scale)
        return out.to(q.dtype), final

    return run


def _fused(*arguments: Any) -> tuple[Tensor, Tensor]:
    from gatescope_kernels.ops.gated_linear_attention import fused

    return fused.attend(*arguments)


IMPLEMENTATIONS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "reference": _wide(reference.attend),
    "blockwise": _wide(blockwise.attend),
    "fused": _fused,
}


def gated_linear_attention(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H T K"],
    v: Float[Tensor, "B H T V"],
    g: Float[Tensor, "B H T K"] | Float[Tensor, "B H T"],
    *,
    beta: Float[Tensor, "B H T"] | None = None,
    initial_state: Float[Tensor, "B H K V"] | None = None,
    scale: float | None = None,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H K V"]]:
    """Causal linear attention whose state forgets. Returns outputs [B H T V] and the final state [B H K V].

        S'  = Diag(exp g_t) S_{t-1}
        S_t = S' + k_t v_t^T                                  without beta: gated linear attention
        S_t = S' + beta_t k_t (v_t - S'^T k_t)^T              with beta: gated delta rule
        o_t = scale * S_t^T q_t

    g              log decay, at most 0: one a head [B H T] or one a key channel [B H T K]. 0 keeps all, -20 or -1e4
                   forget; no exponential of a positive number is ever taken. -inf is allowed
    beta           learning rate of the delta rule, in [0, 1]. Normalise k to length 1, or the state may grow without
                   bound. With g [B H T] this is gated DeltaNet, with g [B H T K] Kimi delta attention
    initial_state  the final state of the tokens before, to go on with a stream; None is zero
    scale          None is 1 / sqrt(K)
    impl           "auto" is "fused" (Triton) on a GPU for up to 256 channels of q and k, "blockwise" elsewhere: chunks
                   of tokens both. "reference" goes token by token and is for tests

    Channels of q and k are the state's rows. fp16 and bf16 accumulate in fp32; the output keeps q.dtype, the final
    state is float32 (float64 for float64). g, beta and initial_state may be in q's dtype or in that of the state. All
    results carry first derivatives. Values are not scanned: a NaN shows in the outputs of the tokens after it, in
    those of the whole chunk it falls into, and in the final state, never as a zero.

    Raises Refusal for shapes, dtypes, devices or options that do not fit, and for an unknown ``impl``.

    Source: Yang et al. 2024, Gated Linear Attention Transformers; Yang et al. 2025, Gated Delta Networks.
    """
    (*inputs, state), scale = resolve(q, k, v, g, beta, initial_state, scale)
    attend = choose(OPERATOR, impl, IMPLEMENTATIONS, q, unfit_for_fused(q))
    return attend(*inputs, state, scale)
