"""A short causal convolution over positions: what a token is may depend on the few before it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class ShortConvolution(nn.Module):
    """A depthwise causal convolution.

        y_t = sum_{j < W} w_j * x_{t-j}         positions before the first are 0

    weight   [W, C], uniform on [-1/sqrt(W), 1/sqrt(W)], as torch draws a depthwise convolution

    Positions where ``key_mask`` is False count as 0, those of another document are not read.

    Source: the token shift before queries, keys and values of H3 and Mamba; Arora et al. 2023 (Zoology) put one into
    every model they compare.
    """

    def __init__(self, width: int, channels: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(width, channels).uniform_(-bound, bound, generator=generator))

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        key_mask: Bool[Tensor, "B T"] | None = None,
        documents: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T C"]:
        """Mix every position with the W - 1 before it."""
        if key_mask is not None:
            x = x * key_mask[..., None]
        out, length = self.weight[0] * x, x.shape[1]
        for back in range(1, min(len(self.weight), length)):
            shifted = self.weight[back] * x[:, : length - back]
            if documents is not None:
                shifted = shifted * (documents[:, back:] == documents[:, :-back])[..., None]
            out = out + nn.functional.pad(shifted, (0, 0, back, 0))
        return out

    def step(
        self, x: Float[Tensor, "B 1 C"], recent: Float[Tensor, "B P C"]
    ) -> tuple[Float[Tensor, "B 1 C"], Float[Tensor, "B P C"]]:
        """One position, from the P = W - 1 inputs before it, latest last; and those before the next."""
        window = torch.cat([recent, x], 1)
        return (window.flip(1) * self.weight).sum(1, keepdim=True), window[:, 1:]


__all__ = ["ShortConvolution"]
