"""How low the entropy of a softmax can be, given how large its scores are."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gatescope.errors import Refusal


def entropy_floor(norm: Float[Tensor, "*B"], n: int | Tensor) -> Float[Tensor, "*B"]:
    """The smallest entropy, nats, that softmax of n scores can have when their Euclidean norm is at most ``norm``.

        beta = exp(-norm sqrt(n / (n - 1)))
        H >= log(1 + (n - 1) beta) + norm sqrt(n (n - 1)) beta / (1 + (n - 1) beta)

    Tight: one score of norm sqrt((n - 1) / n) over n - 1 equal ones with mean 0 attains it. A shift of all scores
    changes no weight, so the norm may be taken after their mean is removed. n = 1 gives 0.
    Raises Refusal for n below 1 or a negative norm.

    Source: Zhai et al. 2023 (arXiv 2303.06296), theorem 3.1, where norm is the product of the spectral norms of
    W_K W_Q^T and X X^T.
    """
    count = torch.as_tensor(n, dtype=norm.dtype, device=norm.device)
    if bool((count < 1).any()) or bool((norm < 0).any()):
        raise Refusal("entropy_floor", "n >= 1 and norms >= 0", f"n = {n}", "count the keys a row can see")
    others = (count - 1).clamp_min(1)
    gap = norm * (count / others).sqrt()  # of the one score over the others
    rest = others * torch.exp(-gap)
    return torch.where(count > 1, rest.log1p() + gap * rest / (1 + rest), torch.zeros_like(norm))
