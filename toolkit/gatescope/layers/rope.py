"""Rotary position embedding in the half-split layout of llama checkpoints."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor


@lru_cache(maxsize=16)
def rope_tables(
    length: int, channels: int, theta: float, device: torch.device, dtype: torch.dtype
) -> tuple[Float[Tensor, "T K"], Float[Tensor, "T K"]]:
    """cos and sin of position t times frequency theta^(-2 c / K), c = 0..K/2-1, both halves alike.

    Angles are computed in fp64 and rounded once, to ``dtype``.
    """
    return _tables(torch.arange(length), channels, theta, device, dtype)


def rope_row(
    position: int, channels: int, theta: float, device: torch.device, dtype: torch.dtype
) -> tuple[Float[Tensor, "1 K"], Float[Tensor, "1 K"]]:
    """The row of one position in `rope_tables`, without the rows before it: what decoding turns a token by."""
    return _tables(torch.tensor([position]), channels, theta, device, dtype)


def _tables(
    positions: Int[Tensor, " T"], channels: int, theta: float, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    # A table made while gradients are off must still serve a later training step.
    with torch.inference_mode(False), torch.no_grad():
        frequency = theta ** (-torch.arange(0, channels, 2, dtype=torch.float64) / channels)
        angle = torch.outer(positions.double(), frequency).repeat(1, 2)
        return angle.cos().to(device, dtype), angle.sin().to(device, dtype)


def rotate(x: Float[Tensor, "B H T K"], theta: float, *, back: bool = False) -> Float[Tensor, "B H T K"]:
    """Turn channel pairs (c, c + K/2) of position t by the angle t theta^(-2c/K)  (Su et al. 2021, eq. 15).

    The pairing of the two halves is the one of Hugging Face's llama; the paper pairs neighbours (2c, 2c + 1), which is
    the same map after a permutation of channels. ``back`` turns the other way: it undoes RoPE.
    """
    cos, sin = rope_tables(x.shape[-2], x.shape[-1], theta, x.device, x.dtype)
    return turned(x, cos, -sin if back else sin)


def turned(x: Float[Tensor, "B H T K"], cos: Float[Tensor, "T K"], sin: Float[Tensor, "T K"]) -> Tensor:
    """Channel pairs (c, c + K/2) turned by the angles of a table."""
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat((-second, first), dim=-1), sin)
