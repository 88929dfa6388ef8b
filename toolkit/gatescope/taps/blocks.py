"""Which key blocks an attention reads, and the same said in its logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from gatescope.errors import Refusal

#: Added to the logit of a key that is not read, in nats: exp of it is 0 in every dtype.
UNREAD = -1000.0


@dataclass(frozen=True, slots=True)
class BlockMask:
    """Query i reads key j only where mask[i // block, j // block] is on.

    mask   for each query head, M = H, or for each key-value head, M = G, which its query heads then share
    block  tokens of a block

    Where no statistics of an attention are asked for and nothing else is masked, it runs through
    `gatescope_kernels.block_sparse_attention` and costs what it reads; anywhere else the dense operator runs with
    `channels`, so that statistics are those of the attention that the model used.

    Raises Refusal for a mask that is not square, and for a query block that does not read itself.
    """

    mask: Bool[Tensor, "B M nQ nS"]
    block: int

    def __post_init__(self) -> None:
        rows, columns = self.mask.shape[-2:]
        if rows != columns or self.block < 1:
            got = f"{rows} x {columns} blocks of {self.block}"
            raise Refusal(
                "BlockMask", "as many key blocks as query blocks, of 1 token or more", got, "mask whole texts"
            )
        if not bool(self.mask.diagonal(dim1=-2, dim2=-1).all()):
            got = "one that does not"
            raise Refusal("BlockMask", "query blocks that read themselves", got, "switch the diagonal on")

    def channels(
        self, q: Float[Tensor, "B H T K"], k: Float[Tensor, "B G S K"], scale: float | None
    ) -> tuple[Float[Tensor, "B H T C"], Float[Tensor, "B G S C"], float]:
        """q, k and scale of the dense attention with the same weights: `UNREAD` joins the logits of what is off.

        One more channel for each query block and each query head of a group that has a mask of its own. Raises Refusal
        for a mask of another number of heads or blocks.
        """
        B, H, T, K = q.shape
        G, rows = k.shape[1], -(-T // self.block)
        M = self.mask.shape[1]
        if tuple(self.mask.shape) != (B, M, rows, rows) or M not in (H, G) or k.shape[2] != T:
            got = f"{tuple(self.mask.shape)} in blocks of {self.block} for q {tuple(q.shape)} and k {tuple(k.shape)}"
            raise Refusal("BlockMask", "a mask for each query or key-value head of this attention", got, "make it anew")
        scale = K**-0.5 if scale is None else scale
        own = torch.arange(T, device=q.device) // self.block
        bias = torch.zeros(self.mask.shape, dtype=k.dtype, device=k.device).masked_fill(~self.mask, UNREAD / scale)
        places = bias.unflatten(1, (G, -1)).flatten(2, 3)[..., own].mT
        row = functional.one_hot(own, rows).to(q)
        head = torch.arange(H, device=q.device) % (M // G)
        now = torch.einsum("hr,ta->htra", functional.one_hot(head, M // G).to(q), row).flatten(2)
        return torch.cat([q, now.expand(B, -1, -1, -1)], -1), torch.cat([k, places], -1), scale


__all__ = ["UNREAD", "BlockMask"]
