"""What block-sparse attention is timed against: torch's dense attention, and the block maximum of a matrix."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from gatescope_kernels.bench import Contest, normal
from gatescope_kernels.ops.block_sparse_attention.api import block_max_attention, block_sparse_attention, top_blocks

_NAME, _DTYPE, _BLOCK = "block_sparse_attention", "float32", 64


def contests(device: str, quick: bool) -> Iterator[Contest]:
    """A tenth, half and all of the causal blocks against dense attention; a training step; the block maximum."""
    T = 1024 if quick else 8192
    for share in (0.098, 0.5, 1.0):  # the first and the own block make the tenth whole
        yield _forward(T, share, device)
    yield _forward(512 if quick else 2048, 0.1, device)
    yield _training_step(512 if quick else 4096, 0.1, device)
    yield _block_max(512 if quick else 2048, device)


def _mask(H: int, T: int, share: float, device: str) -> tuple[Tensor, str]:
    """A random mask, and the share of the causal blocks that it holds, in words."""
    blocks = T // _BLOCK
    mask = top_blocks(normal(1, H, blocks, blocks, device=device), share=share)
    return mask, f"{100 * mask.sum().item() / (H * blocks * (blocks + 1) / 2):.1f} % of blocks"


def _dense_rows(out: Tensor) -> Tensor:
    """Query blocks 0 and 1 see only the first block and their own, which are always on: here dense attention agrees."""
    return out[:, :, : 2 * _BLOCK]


def _forward(T: int, share: float, device: str) -> Contest:
    q, k, v = normal(3, 1, 12, T, 64, device=device)
    mask, held = _mask(12, T, share, device)

    def ours() -> dict[str, Tensor]:
        out = block_sparse_attention(q, k, v, mask)
        return {"out": out, "first rows": _dense_rows(out)}

    def dense() -> dict[str, Tensor]:
        out = scaled_dot_product_attention(q, k, v, is_causal=True)
        return {"out": out} if share == 1 else {"first rows": _dense_rows(out)}

    baselines = {"torch SDPA, dense": dense}
    if T <= 2048:
        tokens = mask.repeat_interleave(_BLOCK, 2).repeat_interleave(_BLOCK, 3).tril()
        baselines["torch SDPA with a T x T mask"] = lambda: {
            "out": scaled_dot_product_attention(q, k, v, attn_mask=tokens)
        }
    return Contest(
        op=_NAME,
        task="forward",
        shape=f"B=1 H=12 T={T} K=64, {held}",
        dtype=_DTYPE,
        device=device,
        ours=ours,
        baselines=baselines,
    )


def _training_step(T: int, share: float, device: str) -> Contest:
    leaves = [x.requires_grad_() for x in normal(3, 1, 12, T, 64, device=device).unbind()]
    q, k, v = leaves
    mask, held = _mask(12, T, share, device)
    upstream = normal(1, 12, T, 64, device=device)

    def step(out: Tensor) -> dict[str, Tensor]:
        dq, _, _ = torch.autograd.grad(out, leaves, upstream)
        return {"first rows": _dense_rows(out.detach()), "first rows of dq": _dense_rows(dq)}

    return Contest(
        op=_NAME,
        task="forward and backward",
        shape=f"B=1 H=12 T={T} K=64, {held}",
        dtype=_DTYPE,
        device=device,
        ours=lambda: step(block_sparse_attention(q, k, v, mask)),
        baselines={"torch SDPA autograd, dense": lambda: step(scaled_dot_product_attention(q, k, v, is_causal=True))},
    )


def _block_max(T: int, device: str) -> Contest:
    q, k = normal(2, 1, 12, T, 64, device=device)
    future = torch.ones(T, T, dtype=torch.bool, device=device).triu(1)

    def eager_head(head: int) -> Tensor:
        scores = (q[:, head] @ k[:, head].mT).mul_(q.shape[-1] ** -0.5).masked_fill_(future, -torch.inf)
        return scores.softmax(-1).view(1, T // _BLOCK, _BLOCK, T // _BLOCK, _BLOCK).amax((2, 4))

    def eager() -> dict[str, Tensor]:
        return {"block maximum": torch.stack([eager_head(head) for head in range(12)], 1)}

    return Contest(
        op=_NAME,
        task="block maximum",
        shape=f"B=1 H=12 T={T} K=64",
        dtype=_DTYPE,
        device=device,
        ours=lambda: {"block maximum": block_max_attention(q, k)},
        baselines={"eager T x T, head by head": eager},
    )
