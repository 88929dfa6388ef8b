"""A pretrained model reads one text under the standard instruments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor, nn

from gatescope.errors import Refusal
from gatescope.probes import Entropy, Massive, Sinks, ValueDrain
from gatescope.scope import Scope

if TYPE_CHECKING:
    from gatescope.models.smollm2 import Pretrained

#: A text longer than this makes a laptop wait for minutes.
MAX_TOKENS = 512


def prepare(pretrained: Pretrained, text: str, max_tokens: int = MAX_TOKENS) -> Int[Tensor, "1 T"]:
    """Token ids with T >= 2. Raises Refusal for a text that is empty, too short or longer than ``max_tokens``."""
    tokens = pretrained.tokenizer.prepare(text, max_tokens=max_tokens)
    if tokens.shape[1] < 2:
        raise Refusal("prepare", "a text of at least 2 tokens", "1 token", "type a longer sentence")
    return tokens


def read_tokens(model: nn.Module, tokens: Int[Tensor, "1 T"], *, keep: bool = False, **attrs: Any) -> xr.Dataset:
    """Sinks, entropy, massive activations (``keep``: all of |h|), value drain of a pass; ``attrs`` as Scope.record."""
    probes = [Sinks(), Entropy(), Massive(keep=keep), ValueDrain()]
    with torch.no_grad(), Scope(model, probes=probes) as scope:
        model(tokens)
    return scope.record(**attrs)


def read_text(pretrained: Pretrained, text: str, max_tokens: int = MAX_TOKENS) -> xr.Dataset:
    """As `read_tokens` with all of |h|, for a text; token texts as coord ``piece``.

    Raises Refusal for a text that `prepare` refuses.
    """
    tokens = prepare(pretrained, text, max_tokens)
    pieces = pretrained.tokenizer.pieces(tokens)
    bos = f"none added, the text starts with {pieces[0]!r}"
    record = read_tokens(pretrained.model, tokens, keep=True, T=tokens.shape[1], bos=bos)
    return record.assign_coords(piece=("token", pieces))
