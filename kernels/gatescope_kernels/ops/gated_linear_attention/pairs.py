"""Decayed products of all pairs of tokens inside a chunk, by halving: no exponential of a positive number, ever.

    P_ir,j = sum_k x_irk y_jk prod_{j < t <= i} a_tk        for i > j;  a in [0, 1]

Every pair i > j is parted at exactly one level of halving: i in the second half of a block of 2m tokens, j in the
first. There its decay is a product of two numbers of at most 1, from the middle through i and from j to the middle, so
a level is one small matrix product. Legend: N chunks of C tokens, R readers a token, n blocks of 2m tokens in a chunk,
W = K decays each channel, W = 1 all alike.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


class Decays:
    """Products of the decays of tokens: never a quotient, so neither 0 / 0 nor a loss of digits after a tiny one.

    since   a_1 ... a_i          from the start of the chunk through token i                       [N C W]
    until   a_{i+1} ... a_C      after token i to the end of the chunk                             [N C W]
    levels  (m, since, until) from the finest on: from the middle of a block through a token of its second half,
            after a token of its first half to the middle                                          [N n m W] each
    """

    def __init__(self, a: Float[Tensor, "N C W"]) -> None:
        self.since, self.until = a.clone(), torch.ones_like(a)
        self.levels: list[tuple[int, Tensor, Tensor]] = []
        m = 1
        while m < a.shape[1]:
            first_since, second_since = halves(self.since, m)
            first_until = halves(self.until, m)[0]
            self.levels.append((m, second_since.clone(), first_until.clone()))
            first_until *= second_since[:, :, -1:]
            second_since *= first_since[:, :, -1:]
            m *= 2

    def between(self) -> Float[Tensor, "N C 1 C"]:
        """prod_{j < t <= i} a_t for i > j, else 0, where all channels decay alike."""
        N, C, _ = self.since.shape
        between = self.since.new_zeros(N, C, 1, C)
        for m, since, until in self.levels:
            corner(between, m)[:, :, :, 0].copy_(since * until.mT)
        return between


def halves(x: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """First and second halves [N n m ...] of all blocks of 2m tokens of [N C ...]."""
    return x.unflatten(1, (-1, 2, m)).unbind(2)


def corner(pairs: Float[Tensor, "N C R C"], m: int) -> Float[Tensor, "N n m R m"]:
    """The pairs that the level of m parts, as a view: second-half rows, first-half columns of the diagonal blocks."""
    blocks = pairs.unflatten(3, (-1, 2, m)).unflatten(1, (-1, 2, m))[:, :, 1, :, :, :, 0]
    return blocks.diagonal(dim1=1, dim2=4).movedim(-1, 1)


def multiply(x: Float[Tensor, "N C R K"], y: Float[Tensor, "N C K"], decays: Decays) -> Float[Tensor, "N C R C"]:
    """P, zero for i <= j."""
    N, C, R, _ = x.shape
    if decays.since.shape[-1] == 1:
        return (x.flatten(1, 2) @ y.mT).view(N, C, R, C) * decays.between()
    pairs = x.new_zeros(N, C, R, C)
    for m, since, until in decays.levels:
        readers, writers = _parted(x, y, m, since, until)
        corner(pairs, m).copy_((readers @ writers.mT).unflatten(2, (m, R)))
    return pairs


def add_gradients(
    dx: Float[Tensor, "N C R K"],
    dy: Float[Tensor, "N C K"],
    dpairs: Float[Tensor, "N C R C"],
    x: Float[Tensor, "N C R K"],
    y: Float[Tensor, "N C K"],
    decays: Decays,
) -> None:
    """Add the gradients of ``multiply`` to dx and dy. Of ``dpairs`` only i > j is read."""
    if decays.since.shape[-1] == 1:
        weighed = (dpairs * decays.between()).flatten(1, 2)
        dx += (weighed @ y).view_as(x)
        dy.baddbmm_(weighed.mT, x.flatten(1, 2))
        return
    for m, since, until in decays.levels:
        readers, writers = _parted(x, y, m, since, until)
        upstream = corner(dpairs, m).flatten(2, 3)
        dx_second, dy_first = halves(dx, m)[1], halves(dy, m)[0]
        dx_second.addcmul_(_thin_product(upstream, writers).view_as(dx_second), since[:, :, :, None])
        dy_first.addcmul_(_thin_product(upstream.mT, readers), until)


def _parted(
    x: Tensor, y: Tensor, m: int, since: Tensor, until: Tensor
) -> tuple[Float[Tensor, "N n mR K"], Float[Tensor, "N n m K"]]:
    readers = halves(x, m)[1] * since[:, :, :, None]
    return readers.flatten(2, 3), halves(y, m)[0] * until


def _thin_product(a: Float[Tensor, "N n r s"], b: Float[Tensor, "N n s K"]) -> Float[Tensor, "N n r K"]:
    """a @ b. Thousands of products over one or two numbers are faster as elementwise sums."""
    if a.shape[-1] > THIN:
        return a @ b
    out = a[..., :1] * b[..., :1, :]
    for j in range(1, a.shape[-1]):
        out.addcmul_(a[..., j : j + 1], b[..., j : j + 1, :])
    return out


THIN = 2
