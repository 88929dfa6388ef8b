"""What is proved of one update: how near it comes to the pattern that was meant."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gatescope.errors import Refusal


def separation(stored: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """Delta_i = min over j != i of x_i.x_i - x_i.x_j: how far pattern i stands out, in its own direction.

    Negative where another pattern has a larger product with x_i than x_i itself. Raises Refusal for fewer than two
    patterns.

    Source: Ramsauer et al. 2020 (arXiv 2008.02217), definition 2.
    """
    _several(stored)
    gram = stored @ stored.mT
    own = gram.diagonal().clone()
    return own - gram.fill_diagonal_(-torch.inf).amax(-1)


def retrieval_bound(
    state: Float[Tensor, "Q D"], stored: Float[Tensor, "N D"], meant: Int[Tensor, " Q"], beta: float
) -> Float[Tensor, " Q"]:
    """A bound on |xi' - x_i| after one softmax update of the state xi towards pattern i = ``meant``.

        |xi' - x_i| <= 2 (N - 1) exp(-beta (Delta_i - 2 |xi - x_i| M)) M,     M = max_j |x_j|

    It says something only below 2 M, which no error exceeds. Raises Refusal for fewer than two patterns.

    Source: Ramsauer et al. 2020 (arXiv 2008.02217), theorem 5, whose maximum of |xi - x_i| and |x_i* - x_i| is not
    needed for the state itself: 1 - p_i <= sum over j != i of exp(-beta xi.(x_i - x_j)), and the error is at most
    (1 - p_i) 2 M.
    """
    largest = stored.norm(dim=-1).max()
    away = (state - stored[meant]).norm(dim=-1)
    gap = separation(stored)[meant] - 2 * away * largest
    return 2 * (len(stored) - 1) * torch.exp(-beta * gap) * largest


def _several(stored: Tensor) -> None:
    if len(stored) < 2:
        raise Refusal("hopfield", "two patterns or more", f"{len(stored)}", "one pattern has nothing to stand out from")
