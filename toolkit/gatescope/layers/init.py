"""Initial weights: seeded by a generator that is passed in, never by global state."""

from __future__ import annotations

import torch
from torch import nn

#: Standard deviation of initial weights (GPT-2; Hugging Face llama's initializer_range).
STD = 0.02


def linear(d_in: int, d_out: int, generator: torch.Generator | None, std: float = STD) -> nn.Linear:
    """A linear map without bias, W ~ N(0, std^2)."""
    layer = nn.utils.skip_init(nn.Linear, d_in, d_out, bias=False)
    nn.init.normal_(layer.weight, std=std, generator=generator)
    return layer


def embedding(count: int, channels: int, generator: torch.Generator | None, std: float) -> nn.Embedding:
    """A table of ``count`` vectors, each entry ~ N(0, std^2)."""
    table = nn.utils.skip_init(nn.Embedding, count, channels)
    nn.init.normal_(table.weight, std=std, generator=generator)
    return table


def spawn(generator: torch.Generator | None, key: int) -> torch.Generator | None:
    """A generator of its own for an optional part, derived from the seed of ``generator`` and ``key``.

    Models of one seed that differ only in that part then share every other initial weight.
    """
    if generator is None:
        return None
    return torch.Generator(generator.device).manual_seed((generator.initial_seed() * 1_000_003 + key + 1) % 2**63)
