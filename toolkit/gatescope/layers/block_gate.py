"""A learned gate on blocks of attention: which key blocks a query block reads (SeerAttention)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from gatescope_kernels import threshold_blocks, top_blocks
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from gatescope.errors import Refusal
from gatescope.layers.rope import rope_tables, rotate, turned

Keep = Literal["share", "count", "threshold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockGateSpec:
    """The shape of a block gate.

    n_heads      H query heads, a gate for each; n_kv_heads G, H a multiple of G
    head_dim     K channels of a query or key
    block        tokens of a block; 64 in the paper
    width        channels in which blocks are compared, even; 128 in the paper
    rope_theta   base of the RoPE that places blocks; None: blocks have no place

    Raises Refusal for sizes out of range.
    """

    n_heads: int
    n_kv_heads: int
    head_dim: int
    block: int = 64
    width: int = 128
    rope_theta: float | None = 10_000.0

    def __post_init__(self) -> None:
        if self.n_heads < 1 or self.n_kv_heads < 1 or self.n_heads % self.n_kv_heads:
            got = f"n_heads={self.n_heads}, n_kv_heads={self.n_kv_heads}"
            raise Refusal("BlockGateSpec", "n_heads a positive multiple of n_kv_heads", got, "copy the model's own")
        if min(self.head_dim, self.block, self.width) < 1 or self.width % 2:
            got = f"head_dim={self.head_dim}, block={self.block}, width={self.width}"
            raise Refusal("BlockGateSpec", "sizes of 1 or more and an even width", got, "the paper has 64 and 128")


@dataclass(frozen=True, slots=True)
class BlockRule:
    """How block scores become a block mask. The first block and the diagonal are always read.

    keep    "share": this share of the visible blocks of each row; "count": so many blocks a row; "threshold": blocks
            whose probability under the gate is above it
    value   the share, number or probability

    Raises Refusal for an unknown ``keep`` and a count that is no whole number; other values out of range are refused
    where the mask is made.
    """

    keep: Keep
    value: float | int

    def __post_init__(self) -> None:
        if self.keep not in get_args(Keep):
            raise Refusal("BlockRule", f"keep in {get_args(Keep)}", repr(self.keep), "choose one of them")
        if self.keep == "count" and not isinstance(self.value, int):
            raise Refusal("BlockRule", "a whole number of blocks", f"{self.value}", "keep='share' takes fractions")

    def mask(self, logits: Float[Tensor, "B H nQ nS"], length: int, block: int) -> Bool[Tensor, "B H nQ nS"]:
        """True where a block is read; ``length`` in tokens. Goes to `gatescope_kernels.block_sparse_attention`."""
        lengths = (length, length)
        if self.keep == "threshold":
            return threshold_blocks(logits.softmax(-1), self.value, lengths=lengths, block=block)
        if self.keep == "share":
            return top_blocks(logits, share=self.value, lengths=lengths, block=block)
        return top_blocks(logits, keep=int(self.value), lengths=lengths, block=block)


class BlockGate(nn.Module):
    """Scores of key blocks for every query block, from pooled queries and keys before RoPE.

        q_a = rope(mean_{i in a}(q_i) W_q),   k_b = rope([max_{j in b} k_j ; min_{j in b} k_j] W_k)
        G_ab = q_a.k_b / sqrt(width)          -inf where no query of block a may read a key of block b

    W_q [H K width] and W_k [G 2K width] are the head's own; a block is placed at its first token. Pooling leaves out
    what is missing of a last, shorter block. It learns by `distillation_loss` alone: a mask carries no gradient.

    Source: Gao et al. 2024, SeerAttention (arXiv 2410.13276). The pooling, width and target are theirs; which position
    RoPE gives to a block and that W_k is shared by a group of query heads are reconstructions.
    """

    def __init__(self, spec: BlockGateSpec, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.spec = spec
        K, std = spec.head_dim, 1 / math.sqrt(spec.head_dim)
        self.q_weight = nn.Parameter(std * torch.randn(spec.n_heads, K, spec.width, generator=generator))
        self.k_weight = nn.Parameter(std * torch.randn(spec.n_kv_heads, 2 * K, spec.width, generator=generator))

    def forward(self, q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G S K"]) -> Float[Tensor, "B H nQ nS"]:
        """Logits G of causal self-attention. Raises Refusal for q and k that are not of the spec, or of two lengths."""
        return self.of_pooled(*self.pooled(q, k))

    def pooled(
        self, q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G S K"]
    ) -> tuple[Float[Tensor, "B H nQ K"], Float[Tensor, "B G nS C"]]:
        """What a block shows the gate: the mean of its queries; maximum and minimum of its keys, C = 2 K.

        It has no weights, so a gate that learns from it need not keep q and k. Raises Refusal as `forward` does.
        """
        spec = self.spec
        wanted = (spec.n_heads, spec.n_kv_heads, spec.head_dim, q.shape[2])
        got = (q.shape[1], k.shape[1], q.shape[3], k.shape[2])
        if got != wanted or k.shape[3] != spec.head_dim:
            names = "(query heads, key heads, channels, keys)"
            raise Refusal("BlockGate", f"{names} = {wanted}", f"{got}", "pass q and k of one whole pass, before RoPE")
        return _pooled(q, spec.block, "mean"), torch.cat(
            [_pooled(k, spec.block, "max"), -_pooled(-k, spec.block, "max")], -1
        )

    def of_pooled(self, q: Float[Tensor, "B H nQ K"], k: Float[Tensor, "B G nS C"]) -> Float[Tensor, "B H nQ nS"]:
        """`forward` for what `pooled` gives."""
        heads = self.spec.n_heads // self.spec.n_kv_heads
        q_BHNW, k_BGNW = self._placed(q @ self.q_weight), self._placed(k @ self.k_weight)
        logits = q_BHNW @ k_BGNW.repeat_interleave(heads, 1).mT / math.sqrt(self.spec.width)
        later = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        return logits.masked_fill(later, -torch.inf)

    def of_rotated(self, q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G S K"], theta: float) -> Tensor:
        """`forward` for q and k that have RoPE of base ``theta``, as the tap "attention" shows them: it is undone."""
        return self(rotate(q, theta, back=True), rotate(k, theta, back=True))

    def _placed(self, x: Float[Tensor, "B M N W"]) -> Float[Tensor, "B M N W"]:
        if self.spec.rope_theta is None:
            return x
        length = x.shape[2] * self.spec.block
        cos, sin = rope_tables(length, x.shape[-1], self.spec.rope_theta, x.device, x.dtype)
        return turned(x, cos[:: self.spec.block], sin[:: self.spec.block])

    def extra_repr(self) -> str:
        """What a printed model says about this gate."""
        return f"{self.spec.n_heads} heads, block={self.spec.block}, width={self.spec.width}"


def distillation_loss(logits: Float[Tensor, "B H nQ nS"], target: Float[Tensor, "B H nQ nS"]) -> Float[Tensor, ""]:
    """How far a gate is from the attention it stands for, in nats, the mean over rows of blocks.

        KL(P || softmax(G)) = sum_b P_ab (log P_ab - log softmax(G)_ab)

    ``target`` P is `gatescope_kernels.block_max_attention` with normalise=True, of q and k after RoPE. Raises Refusal
    for another shape, and where P has mass on a block that the gate cannot see.

    Source: Gao et al. 2024, SeerAttention: KL to the row-normalised block maximum of dense attention.
    """
    if logits.shape != target.shape:
        got = f"{tuple(logits.shape)} and {tuple(target.shape)}"
        raise Refusal("distillation_loss", "logits and target of one shape", got, "use one block size for both")
    if bool(((logits == -torch.inf) & (target > 0)).any()):
        raise Refusal("distillation_loss", "no target where the gate is -inf", "some", "use causal=True for the target")
    target = target.to(logits.dtype)
    log_gate = logits.log_softmax(-1).masked_fill(target == 0, 0.0)
    return (torch.special.xlogy(target, target) - target * log_gate).sum(-1).mean()


def _pooled(x: Float[Tensor, "B M T K"], block: int, how: Literal["mean", "max"]) -> Float[Tensor, "B M N K"]:
    """Mean or maximum over the tokens of each block that are there."""
    T = x.shape[2]
    missing = -T % block
    filled = functional.pad(x, (0, 0, 0, missing), value=0.0 if how == "mean" else -torch.inf)
    blocks = filled.unflatten(2, (-1, block))
    if how == "max":
        return blocks.amax(3)
    count = torch.full((blocks.shape[2], 1), block, dtype=x.dtype, device=x.device)
    count[-1] -= missing
    return blocks.sum(3) / count


__all__ = ["BlockGate", "BlockGateSpec", "BlockRule", "distillation_loss"]
