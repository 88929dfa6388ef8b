"""Gated attention with statistics: what callers see. Validates, then dispatches to one implementation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from gatescope_kernels.ops._common import choose
from gatescope_kernels.ops.gated_attention import blockwise, reference
from gatescope_kernels.ops.gated_attention.problem import OPERATOR, Visibility
from gatescope_kernels.ops.gated_attention.validate import STATISTICS, resolve, unfit_for_fused

Impl = Literal["auto", "reference", "blockwise", "fused"]
Combine = Literal["multiply", "add"]

__all__ = [
    "STATISTICS",
    "AttentionStats",
    "Combine",
    "Impl",
    "Visibility",
    "gated_attention",
    "gated_attention_with_stats",
]


def _fused(*arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
    from gatescope_kernels.ops.gated_attention import fused

    return fused.attend(*arguments)


IMPLEMENTATIONS: dict[str, Callable[..., tuple[Tensor, dict[str, Tensor]]]] = {
    "reference": reference.attend,
    "blockwise": blockwise.attend,
    "fused": _fused,
}


@dataclass(frozen=True, slots=True)
class AttentionStats:
    """Per-row and per-key statistics of softmax attention, never the matrix. Entries that were not asked for are None.

    lse        log of the softmax denominator, learned sink included, nats                 [B H T]
    visible    n_i: keys that row i sees (a learned sink is not counted here)              [B T]
    entropy    H_i = -sum_j A_ij log A_ij, learned sink included as one more outcome, nats [B H T]
    max_logit  largest visible scale * q_i.k_j (sink excluded); -inf on an empty row       [B H T]
    mass       A_is for each chosen key s in ``keys``, counted in the row's own document   [B H T N]
    key_mass   sum_i A_ij: attention a key receives                                        [B H S]
    sink_mass  mass on the learned sink, 1 - sum_j A_ij; None without a sink               [B H T]

    A row that sees no key (and no sink) has lse = -inf, entropy 0, mass 0 and output 0. Statistics of fp16 and bf16
    inputs are float32; all of them carry gradients, that of max_logit being the one at the (first) largest logit.
    """

    lse: Float[Tensor, "B H T"]
    visible: Int[Tensor, "B T"]
    entropy: Float[Tensor, "B H T"] | None = None
    max_logit: Float[Tensor, "B H T"] | None = None
    mass: Float[Tensor, "B H T N"] | None = None
    keys: tuple[int, ...] = ()
    key_mass: Float[Tensor, "B H S"] | None = None
    sink_mass: Float[Tensor, "B H T"] | None = None


def gated_attention(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S V"],
    *,
    gate: Float[Tensor, "B H T W"] | None = None,
    combine: Combine = "multiply",
    sink: Float[Tensor, " H"] | float | None = None,
    visibility: Visibility = Visibility(),  # noqa: B008 (frozen)
    key_mask: Bool[Tensor, "B S"] | None = None,
    documents: Int[Tensor, "B T"] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    impl: Impl = "auto",
) -> Float[Tensor, "B H T V"]:
    """Softmax attention, a gate on its output.

        S_ij = scale * q_i.k_j over the keys j that row i sees      (with a softcap c: c tanh(scale * q_i.k_j / c))
        A_ij = exp(S_ij) / (exp(sink_h) + sum_j exp(S_ij))          (no exp(sink_h) without a sink)
        Y_i  = gate_i * sum_j A_ij v_j     or, with combine="add",     gate_i + sum_j A_ij v_j

    gate        scores, already activated; W = V gates each channel, W = 1 each head (Qiu et al. 2025, G1)
    sink        a learned logit for each query head (gpt-oss); the number 0.0 is softmax-off-by-one (Miller 2023)
    visibility  causal, window, sink tokens; see Visibility
    key_mask    True where a key may be read: padding
    documents   ids of packed sequences, which do not decrease along T; T = S. A row reads keys of its own document
                only, on top of every other rule, and the sink tokens of a window are the first of that document
    scale       None is 1 / sqrt(K)
    softcap     keeps logits within (-softcap, softcap) (Gemma 2)
    impl        "auto" is "fused" (Triton) on a GPU, "blockwise" elsewhere; "reference" materialises T x S, for tests

    Query head h reads key-value head h // (H / G). fp16 and bf16 accumulate in fp32; the output keeps q.dtype. A row
    that sees no key has output 0 before the gate. Values are not scanned: a NaN in q, or in a key or value, shows in
    the output and statistics of the rows that read it (a NaN in a hidden value may too: 0 * NaN), and never as a zero.

    Packed sequences usually come as the cu_seqlens of flash-attention: the places where documents begin, and T. From
    these the ids of one packed row are

        documents = torch.repeat_interleave(torch.arange(D), cu_seqlens.diff())[None]                       [1 T]

    A batch padded on the right is the same thing with one more document for the padding; key_mask may be given as well.
    Ids are checked by value: one reduction, and on a GPU one wait for the device.

    Raises Refusal for shapes, dtypes, devices or options that do not fit, and for an unknown ``impl``.

    Source: Qiu et al. 2025, Gated Attention for Large Language Models; Xiao et al. 2024 for window and sink tokens.
    """
    problem, sink_H = resolve(q, k, v, gate, combine, sink, visibility, key_mask, documents, scale, softcap, (), ())
    attend = choose(OPERATOR, impl, IMPLEMENTATIONS, q, unfit_for_fused(q, v, softcap))
    out, _ = attend(q, k, v, gate, combine, sink_H, problem)
    return out


def gated_attention_with_stats(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S V"],
    *,
    gate: Float[Tensor, "B H T W"] | None = None,
    combine: Combine = "multiply",
    sink: Float[Tensor, " H"] | float | None = None,
    visibility: Visibility = Visibility(),  # noqa: B008 (frozen)
    key_mask: Bool[Tensor, "B S"] | None = None,
    documents: Int[Tensor, "B T"] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    stats: tuple[str, ...] = STATISTICS,
    keys: tuple[int, ...] = (0,),
    impl: Impl = "auto",
) -> tuple[Float[Tensor, "B H T V"], AttentionStats]:
    """As gated_attention, and the statistics named in ``stats``; ``keys`` are the key positions that "mass" reads.

    The statistics describe A, so the gate does not enter them. "mass" alone costs O(T * N) beyond plain attention;
    "entropy", "max_logit" and "key_mass" together cost elementwise work on each score, never memory of T x S.

    In packed documents ``keys`` count from the first token of the row's own document, so that 0 is that token; a key
    beyond the document's end has mass 0. "key_mass" stays by position in the whole sequence.

    Raises Refusal as gated_attention does, and for an unknown statistic or a key outside [0, S).
    """
    problem, sink_H = resolve(
        q, k, v, gate, combine, sink, visibility, key_mask, documents, scale, softcap, stats, keys
    )
    attend = choose(OPERATOR, impl, IMPLEMENTATIONS, q, unfit_for_fused(q, v, softcap))
    out, found = attend(q, k, v, gate, combine, sink_H, problem)
    chosen = problem.keys if "mass" in problem.stats else ()
    return out, AttentionStats(visible=problem.count_visible(), keys=chosen, **found)
