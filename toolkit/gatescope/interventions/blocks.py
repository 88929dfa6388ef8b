"""Attention that reads a part of its key blocks, and what may choose them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from gatescope_kernels import block_max_attention
from jaxtyping import Bool, Float
from torch import Tensor

from gatescope.errors import Refusal
from gatescope.interventions.base import Indices, Intervention, indices
from gatescope.taps import AttentionCall, BlockMask

#: What every key block is worth to every query block of an attention, [B H nQ nS]: a function of the call, the layer
#: and the size of a block, -inf where no query of a block may read. `layers.BlockGates` is one that learned it.
BlockScores = Callable[[AttentionCall, int | None, int], Tensor]


@runtime_checkable
class BlockChoice(Protocol):
    """How scores become a mask that holds the diagonal; `layers.BlockRule` is one."""

    def mask(self, logits: Float[Tensor, "B H nQ nS"], length: int, block: int) -> Bool[Tensor, "B H nQ nS"]:
        """True where a block is read."""
        ...


@dataclass(frozen=True)
class BestBlocks:
    """The oracle: the block maximum of the dense attention itself, which costs what it was to save.

    score_ab = max over i in a, j in b of A_ij
    """

    def __call__(self, call: AttentionCall, layer: int | None, block: int) -> Float[Tensor, "B H nQ nS"]:
        """The largest attention probability of each block."""
        return block_max_attention(call.q, call.k, block=block, scale=call.scale)


@dataclass(frozen=True)
class LatestBlocks:
    """A pattern that knows no text: the latest blocks. With the first one, which rules keep, it is StreamingLLM's."""

    def __call__(self, call: AttentionCall, layer: int | None, block: int) -> Float[Tensor, "B H nQ nS"]:
        """The place of a block."""
        B, H, T, _ = call.q.shape
        rows = -(-T // block)
        scores = torch.arange(rows, dtype=torch.float32, device=call.q.device).expand(B, H, rows, rows)
        return scores.masked_fill(_later(rows, call.q.device), -torch.inf)


@dataclass(frozen=True)
class MeanBlocks:
    """A heuristic without weights: score_ab = mean of q over a . mean of k over b, as MInference estimates blocks.

    Source: Jiang et al. 2024, MInference 1.0 (its block-sparse heads).
    """

    def __call__(self, call: AttentionCall, layer: int | None, block: int) -> Float[Tensor, "B H nQ nS"]:
        """Products of the means, after RoPE where the model has it."""
        T, G = call.q.shape[2], call.k.shape[1]
        q, k = (torch.stack([part.mean(2) for part in x.split(block, 2)], 2) for x in (call.q, call.k))
        scores = q @ k.repeat_interleave(q.shape[1] // G, 1).mT
        return scores.masked_fill(_later(-(-T // block), scores.device), -torch.inf)


@dataclass(eq=False)
class SparseBlocks(Intervention):
    """Let every block of queries read only the key blocks that a rule chooses by their scores.

        A_ij = exp(S_ij) / sum over j' with mask of exp(S_ij'),    mask[i // block, j // block] = rule(scores)

    scores  what a key block is worth to a query block
    rule    how scores become a mask; `layers.BlockRule` always keeps the first block and the own one
    block   tokens of a block
    layers  blocks of the model; None for all

    Statistics that probes ask for are those of what is left. After the pass ``read`` holds the masks by layer
    [B H nQ nS]. The control reads as many blocks, head by head and row by row, the first and the own one among them,
    the others drawn anew for each layer. Raises Refusal on first use for an attention that is not causal over its own
    sequence, and as scores and rule do.
    """

    scores: BlockScores
    rule: BlockChoice
    block: int
    layers: Indices | None = None
    seed: int | None = None
    read: dict[int | None, Tensor] = field(default_factory=dict, init=False)

    name = "sparse_blocks"
    sites = frozenset({"attention"})
    equation = "A[i, j] = 0 where mask[i // block, j // block] is off, the other keys renormalised"
    control_rule = "as many blocks a row, the first and the own one among them, the others at random"

    def __post_init__(self) -> None:
        if self.block < 1:
            raise Refusal("SparseBlocks", "a block of 1 token or more", f"{self.block}", "64 is usual, 8 for a page")
        if self.layers is not None:
            self.where = self.layers = indices("SparseBlocks", "layers", self.layers)

    @torch.no_grad()
    def chosen(self, call: AttentionCall, layer: int | None) -> Bool[Tensor, "B H nQ nS"]:
        """The mask that the rule makes of the scores, or its control."""
        mask = self.rule.mask(self.scores(call, layer, self.block), call.q.shape[2], self.block)
        return mask if self.seed is None else _at_random(mask, self.seed * 10_007 + (layer or 0))

    def apply(self, value: AttentionCall, layer: int | None) -> AttentionCall:
        """The call with the mask."""
        if not value.visibility.causal or value.q.shape[2] != value.k.shape[2] or value.blocks is not None:
            got = f"{value.visibility}, {value.q.shape[2]} queries, {value.k.shape[2]} keys, blocks: {value.blocks}"
            raise Refusal("SparseBlocks", "causal attention over one whole sequence", got, "pass a text, no cache")
        self.read[layer] = self.chosen(value, layer)
        return replace(value, blocks=BlockMask(self.read[layer], self.block))

    def control(self, seed: int) -> SparseBlocks:
        """As many blocks at random. Raises Refusal for what is a control already."""
        if self.seed is not None:
            raise Refusal("SparseBlocks.control", "an intervention", "a control", "call control() on the intervention")
        return replace(self, seed=seed)


def _later(rows: int, device: torch.device) -> Bool[Tensor, "nQ nS"]:
    return torch.ones(rows, rows, dtype=torch.bool, device=device).triu(1)


def _at_random(mask: Bool[Tensor, "B H nQ nS"], seed: int) -> Bool[Tensor, "B H nQ nS"]:
    """As many of every row, the first and the last visible one among them."""
    rows = mask.shape[-1]
    drawn = torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed)).to(mask.device)
    always = torch.eye(rows, dtype=torch.bool, device=mask.device)
    always[:, 0] = True
    drawn = drawn.masked_fill(_later(rows, mask.device), -1.0).masked_fill(always, 2.0)
    rank = drawn.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    return rank < mask.sum(-1, keepdim=True)


__all__ = ["BestBlocks", "BlockChoice", "BlockScores", "LatestBlocks", "MeanBlocks", "SparseBlocks"]
