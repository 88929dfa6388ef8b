"""Which experts a token names, and with what weight: a pure function of the logits that knows nothing of experts."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gatescope_kernels.errors import Refusal
from gatescope_kernels.ops._common import accumulation_dtype, check_filled, check_floating, check_tensor

OPERATOR = "route"
Kind = Literal["softmax", "sigmoid"]
KINDS = ("softmax", "sigmoid")

__all__ = ["Kind", "route"]


def route(
    logits: Float[Tensor, "N E"],
    k: int,
    *,
    kind: Kind = "softmax",
    renormalise: bool = True,
    bias: Float[Tensor, " E"] | None = None,
) -> tuple[Int[Tensor, "N k"], Float[Tensor, "N k"]]:
    """The k best experts of each token, best first, and their weights.

        score_e = softmax(logits)_e   or   sigmoid(logits_e)
        index   = top-k of score + bias
        weight  = score[index]        or, renormalised,   score[index] / sum_j score[index_j]

    kind         "softmax" (Mixtral) or "sigmoid" (DeepSeek-V3)
    renormalise  weights of a token sum to 1; computed in log space, so scores that underflow still divide
    bias         added for the selection only, never to the weights, and carries no gradient: loss-free balancing

    The weights are differentiable in the logits; the selection is not. fp16 and bf16 compute in fp32; the weights keep
    logits.dtype, the indices are int64. Which of two equal scores wins is torch.topk's choice. A logit of -inf keeps
    an expert out; a NaN, or a row without k experts left, shows as NaN in its own row where it cannot be normalised.

    Raises Refusal for shapes, dtypes, devices or options that do not fit, and for k outside [1, E].

    Source: Jiang et al. 2024 (Mixtral); DeepSeek-AI 2024 (DeepSeek-V3); Wang et al. 2024, Auxiliary-Loss-Free Load
    Balancing Strategy for Mixture-of-Experts.
    """
    _check(logits, k, kind, renormalise, bias)
    z_NE = logits.to(accumulation_dtype(logits))
    log_score_NE = z_NE.log_softmax(-1) if kind == "softmax" else torch.nn.functional.logsigmoid(z_NE)
    with torch.no_grad():
        # Logits order experts as scores do, and do not underflow to ties.
        ranked_NE = z_NE if bias is None else log_score_NE.exp() + bias.to(z_NE.dtype)
        index = ranked_NE.topk(k, dim=-1).indices
    log_weight = log_score_NE.gather(-1, index)
    weight = log_weight.softmax(-1) if renormalise else log_weight.exp()
    return index, weight.to(logits.dtype)


def _check(logits: Any, k: Any, kind: Any, renormalise: Any, bias: Any) -> None:
    check_tensor(OPERATOR, "logits [N E]", logits)
    if logits.dim() != 2:
        shape = str(tuple(logits.shape))
        raise Refusal(OPERATOR, "logits [N E]", shape, "flatten sequences with logits.reshape(-1, E)")
    check_filled(OPERATOR, "logits [N E]", logits)
    check_floating(OPERATOR, "logits", logits)
    E = logits.shape[1]
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= E:
        raise Refusal(OPERATOR, f"k in [1, E] = [1, {E}]", repr(k), "a token cannot name more experts than there are")
    if kind not in KINDS:
        raise Refusal(OPERATOR, f"kind in {KINDS}", repr(kind), "use kind='softmax' for Mixtral's router")
    if not isinstance(renormalise, bool):
        raise Refusal(OPERATOR, "renormalise True or False", repr(renormalise), "True makes a token's weights sum to 1")
    if bias is None:
        return
    if not isinstance(bias, Tensor):
        raise Refusal(OPERATOR, "bias [E] as a tensor", type(bias).__name__, "pass one number an expert, or None")
    if tuple(bias.shape) != (E,):
        raise Refusal(OPERATOR, f"bias [E] = ({E},)", str(tuple(bias.shape)), "pass one number an expert, or None")
    check_floating(OPERATOR, "bias", bias)
    if bias.device != logits.device:
        wanted = f"bias on the logits' device {logits.device}"
        raise Refusal(OPERATOR, wanted, str(bias.device), "move it with bias.to(logits.device)")
