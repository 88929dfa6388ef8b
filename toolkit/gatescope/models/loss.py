"""The loss of a language model, token by token."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from gatescope.errors import NonFiniteError, Refusal
from gatescope.taps import Event, Handler, attached


def next_token_nll(
    model: nn.Module,
    tokens: Int[Tensor, "B T"],
    key_mask: Bool[Tensor, "B T"] | None = None,
    documents: Int[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B T-1"]:
    """Negative log-likelihood of each token given those before it, in nats.

        nll[b, t] = -log softmax(logits[b, t])[tokens[b, t + 1]]

    Entry t belongs to query position t. Keys where ``key_mask`` is False are not read; their own losses are still
    returned, for the caller to leave out. ``documents`` are ids of packed sequences, as `TinyLM` takes them; where the
    next token begins another document there is nothing to predict, and the loss is 0. Computed in the dtype of the
    logits, fp32 at least.

    Raises Refusal for sequences of fewer than two tokens, NonFiniteError when a loss is NaN or infinite, naming the
    first layer whose output is not finite if the model shows its residual stream.
    """
    if tokens.ndim == 2 and tokens.shape[1] < 2:
        raise Refusal("next_token_nll", "at least 2 tokens a sequence", f"{tokens.shape[1]}", "pass longer sequences")
    more = {name: x for name, x in (("key_mask", key_mask), ("documents", documents)) if x is not None}
    logits = model(tokens, **more)
    logits = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
    nll = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten().long(), reduction="none")
    if not nll.detach().isfinite().all():
        raise NonFiniteError(
            "next_token_nll",
            "finite losses",
            _where(model, tokens, more),
            "check weights and learning rate",
        )
    nll = nll.view(tokens.shape[0], -1)
    return nll if documents is None else nll.masked_fill(documents[:, 1:] != documents[:, :-1], 0)


class _FirstNonFinite(Handler):
    """Keeps the name of the first place in the residual stream that holds NaN or infinity."""

    sites = frozenset({"embed", "resid"})

    def __init__(self) -> None:
        self.place: str | None = None

    def watch(self, event: Event) -> None:
        if self.place is None and not event.value.isfinite().all():
            self.place = "the embedding" if event.layer is None else f"the output of layer {event.layer}"


@torch.no_grad()
def _where(model: nn.Module, tokens: Tensor, more: dict[str, Tensor]) -> str:
    """Where the first non-finite number of a forward pass appears, in words."""
    seen = _FirstNonFinite()
    if not seen.sites <= set(getattr(model, "tap_sites", ())):
        return "NaN or infinity"
    with attached(model, seen):
        model(tokens, **more)
    return f"NaN or infinity, first in {seen.place or 'the final norm or the output head'}"


__all__ = ["next_token_nll"]
