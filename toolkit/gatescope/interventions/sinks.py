"""Interventions that give attention somewhere else to go."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from gatescope.errors import Refusal
from gatescope.interventions.base import Draw, Indices, Intervention, chosen, indices, matched
from gatescope.taps import AttentionCall


@dataclass(eq=False)
class AddSink(Intervention):
    """Add a sink to the softmax of some heads: a logit that takes attention and gives nothing.

        A[i, j] = exp(S_ij) / (exp(logit) + sum_j exp(S_ij))

    logit   a number, or a tensor with one for each of ``heads``, which may be a parameter that is being learned; 0.0
            is softmax-off-by-one
    heads   query heads, or a Draw; None for all
    layers  blocks; None for all

    A head that has a sink already gets a second one beside it. Statistics count a sink in every head of such a call;
    the mass on it is 0 in the others. The control adds the same logits to as many random other heads. Raises Refusal
    for a number that is not finite, a tensor that does not fit the heads, and heads as MaskKeys does keys.
    """

    logit: float | int | Tensor
    heads: Indices | Draw | None = None
    layers: Indices | None = None

    name = "add_sink"
    sites = frozenset({"attention"})
    equation = "A[i, j] = exp(S_ij) / (exp(logit) + sum_j exp(S_ij)) in the chosen heads"
    control_rule = "the same logits in as many random other heads, same layers"

    def __post_init__(self) -> None:
        if not isinstance(self.logit, Tensor) and not math.isfinite(self.logit):
            raise Refusal("AddSink", "a finite logit", str(self.logit), "use 0.0 for softmax-off-by-one")
        if self.heads is not None and not isinstance(self.heads, Draw):
            self.heads = indices("AddSink", "heads", self.heads)
        if self.layers is not None:
            self.where = self.layers = indices("AddSink", "layers", self.layers)

    def apply(self, value: AttentionCall, layer: int | None) -> AttentionCall:
        """The call with the sink."""
        H = value.q.shape[1]
        heads = tuple(range(H)) if self.heads is None else chosen("AddSink", "heads", self.heads, range(H))
        added = self._logits(len(heads), value.q)
        # Not -inf, which leaves the mass of a row that sees nothing undefined.
        absent = torch.full((H,), torch.finfo(added.dtype).min / 8, dtype=added.dtype, device=added.device)
        sink = absent.index_put((torch.tensor(heads, device=added.device),), added)
        if value.sink is not None:
            sink = torch.logaddexp(sink, torch.as_tensor(value.sink, dtype=sink.dtype, device=sink.device))
        return replace(value, sink=sink)

    def _logits(self, count: int, q: Tensor) -> Float[Tensor, " n"]:
        """One logit a chosen head, in the dtype the operator accumulates in."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        logit = torch.as_tensor(self.logit, dtype=dtype, device=q.device)
        if logit.ndim and tuple(logit.shape) != (count,):
            raise Refusal(
                "AddSink",
                f"a number or one logit for each of {count} heads",
                f"{tuple(logit.shape)}",
                "pass [n] logits",
            )
        return logit.expand(count)

    def control(self, seed: int) -> AddSink:
        """The same sink in as many random other heads, same layers. Raises Refusal for a sink in all heads."""
        if self.heads is None:
            raise Refusal("AddSink.control", "chosen heads, so that there are others", "all heads", "name some heads")
        return replace(self, heads=matched("AddSink", self.heads, seed))


__all__ = ["AddSink"]
