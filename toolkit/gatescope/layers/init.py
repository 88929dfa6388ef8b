"""Initial weights: seeded by a generator that is passed in, never by global state."""

from __future__ import annotations

import torch
from torch import nn


def linear(d_in: int, d_out: int, generator: torch.Generator | None, std: float | None = None) -> nn.Linear:
    """A linear map without bias, W ~ N(0, std^2); std defaults to 1/sqrt(d_in), which keeps the variance of its input.

    Source of the default: LeCun et al. 1998, Efficient BackProp, section 4.6.
    """
    layer = nn.utils.skip_init(nn.Linear, d_in, d_out, bias=False)
    nn.init.normal_(layer.weight, std=d_in**-0.5 if std is None else std, generator=generator)
    return layer


def spawn(generator: torch.Generator | None, key: int) -> torch.Generator | None:
    """A generator of its own for an optional part, derived from the seed of ``generator`` and ``key``.

    Models of one seed that differ only in that part then share every other initial weight.
    """
    if generator is None:
        return None
    return torch.Generator(generator.device).manual_seed((generator.initial_seed() * 1_000_003 + key + 1) % 2**63)
