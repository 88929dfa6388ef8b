"""One pass at a time for the panels of lesson 07: what is kept or read, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import xarray as xr
from gatescope import records
from gatescope.models.smollm2 import Pretrained
from gatescope.records import Quantity
from gatescope.taps import Event, Handler, attached
from gatescope_kernels import block_max_attention
from jaxtyping import Float
from torch import Tensor

from gatescope_lessons.l07_learning_what_not_to_read import lab, texts
from gatescope_lessons.l07_learning_what_not_to_read.texts import BLOCK

_KEPT = Quantity(
    "kept", ("token",), "1", "share of heads whose cache still holds a token",
    "mean over key-value heads of kept_j after the last token", "this project", "all keys: 1",
)  # fmt: skip
_WORTH = Quantity(
    "block_attention", ("query_block", "key_block"), "1", "share of the block maxima of a row",
    "M_ab / sum_b M_ab, M_ab = max over i in a, j in b of A_ij", "Gao et al. 2024", "all blocks alike: 1/(a+1)",
)  # fmt: skip
_READ = Quantity(
    "block_read", ("query_block", "key_block"), "1", "whether a block is read", "mask_ab", "Gao et al. 2024",
    "all blocks: 1",
)  # fmt: skip


class _Worth(Handler):
    sites = frozenset({"attention"})

    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def watch(self, event: Event) -> None:
        call = event.value
        self.found.append(block_max_attention(call.q, call.k, block=BLOCK, normalise=True, scale=call.scale))


@dataclass(frozen=True)
class Cached:
    """What a cache policy did with one text: the loss of each part, and which keys were left at the end [L G T]."""

    loss: Float[np.ndarray, " parts"]
    kept: Float[Tensor, "L G T"]

    def record(self, pieces: list[str], layer: int | None) -> xr.Dataset:
        """The share of heads that hold each token, of one layer or of all, with the tokens' texts."""
        own = self.kept if layer is None else self.kept[layer : layer + 1]
        where = "all layers" if layer is None else f"layer {layer}"
        made = records.new({"kept": _KEPT.variable(own.double().flatten(0, 1).mean(0).numpy(), note=where)})
        return made.assign_coords(piece=("token", pieces))


@dataclass(frozen=True)
class Masked:
    """What a block mask did with one text: the loss of each part, and the masks [L H nQ nS]."""

    loss: Float[np.ndarray, " parts"]
    read: Float[Tensor, "L H nQ nS"]

    @property
    def share(self) -> float:
        """The share of the visible blocks that was read."""
        rows = self.read.shape[-1]
        return float(self.read.sum((-2, -1)).mean() / (rows * (rows + 1) / 2))


class Reading:
    """One text under full attention, and under any policy or block mask.

    Raises Refusal for a name that is no text of the lesson.
    """

    def __init__(self, pretrained: Pretrained, name: str) -> None:
        self.pretrained = pretrained
        self.tokens = texts.returning(pretrained.tokenizer, name)
        self.pieces = pretrained.tokenizer.pieces(self.tokens)

    @cached_property
    def full(self) -> Float[np.ndarray, " parts"]:
        """The loss of each part when everything is read."""
        found: np.ndarray = lab.losses(self.pretrained.model, self.tokens)[0]
        return found

    def cached(self, policy: str, budget: int) -> Cached:
        """The text with every head's cache at a budget."""
        change = lab.evicting(self.pretrained, policy, budget)
        loss = lab.losses(self.pretrained.model, self.tokens, change)[0]
        return Cached(loss, torch.cat(list(change.kept.values())).float())

    def masked(self, scorer: str, keep: int) -> Masked:
        """The text with so many key blocks a row."""
        change = lab.sparse(self.pretrained, scorer, keep)
        loss = lab.losses(self.pretrained.model, self.tokens, change)[0]
        return Masked(loss, torch.cat(list(change.read.values())).float())

    @cached_property
    def worth(self) -> Float[Tensor, "L H nQ nS"]:
        """The row-normalised block maxima of every head under full attention."""
        seen = _Worth()
        with torch.no_grad(), attached(self.pretrained.model, seen):
            self.pretrained.model(self.tokens)
        return torch.cat(seen.found)

    def block_record(self, masked: Masked, layer: int, head: int) -> xr.Dataset:
        """What the blocks of one head are worth, and which of them were read."""
        note = f"layer {layer}, head {head}, blocks of {BLOCK} tokens"
        variables = {
            "block_attention": _WORTH.variable(self.worth[layer, head].double().numpy(), note=note),
            "block_read": _READ.variable(masked.read[layer, head].double().numpy()),
        }
        return records.new(variables, T=self.tokens.shape[1])
