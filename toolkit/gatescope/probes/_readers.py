"""Which rows read a key: the visibility rule of the operator, seen from the key's side, in O(T + S)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from gatescope_kernels import Visibility
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from gatescope.probes._sums import precise
from gatescope.taps import AttentionCall


def reader_range(rule: Visibility, keys: Int[Tensor, "*N"]) -> tuple[Int[Tensor, "*N"], Int[Tensor, "*N"]]:
    """Key j is visible from exactly the positions p with low_j <= p < high_j (`Visibility` has the rule)."""
    everywhere = torch.iinfo(torch.int64).max // 2
    low = keys.clone() if rule.causal else torch.full_like(keys, -everywhere)
    high = torch.full_like(keys, everywhere)
    if rule.window is not None:
        kept = keys < rule.sink_tokens
        high = torch.where(kept, high, keys + rule.window)
        low = torch.where(kept, low, torch.maximum(low, keys - rule.window + 1))
    return low, high


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of one attention: the sequences of a batch, or the documents packed into them.

    Rows, keys and chosen keys count from the first token of their own sample.

    position     of each row                                       [B T]
    place        of each key                                       [B S]
    start, stop  of each key's sample, in the sequence             [B S]
    number       of each row's sample, and count of all samples    [B T]
    """

    position: Int[Tensor, "B T"]
    place: Int[Tensor, "B S"]
    start: Int[Tensor, "B S"]
    stop: Int[Tensor, "B S"]
    number: Int[Tensor, "B T"]
    count: int
    packed: bool

    @classmethod
    def of(cls, call: AttentionCall, row_per_key: bool = False) -> Samples:
        """The samples of a call that the operator takes; ``row_per_key`` for what is measured on keys, T = S."""
        B, S, device = call.k.shape[0], call.k.shape[2], call.k.device
        T = S if row_per_key else call.q.shape[2]
        key = torch.arange(S, device=device).expand(B, -1)
        if call.documents is None:
            zero, number = torch.zeros_like(key), torch.arange(B, device=device)[:, None].expand(-1, T)
            return cls(key[:, S - T :], key, zero, zero + S, number, B, False)
        first = torch.ones(B, T, dtype=torch.bool, device=device)
        first[:, 1:] = call.documents[:, 1:] != call.documents[:, :-1]
        number = (first.flatten().cumsum(0) - 1).view(B, T)
        edges = torch.nn.functional.pad(first.flatten().nonzero()[:, 0], (0, 1), value=B * T)
        before = torch.arange(0, B * T, T, device=device)[:, None]
        start, stop = edges[number] - before, edges[number + 1] - before
        return cls(key - start, key - start, start, stop, number, len(edges) - 1, True)

    def at(self, keys: Int[Tensor, " N"], mask: Bool[Tensor, "B S"] | None) -> Bool[Tensor, "B T N"]:
        """Whether each row's own sample has each of a few chosen keys, and ``mask`` is True there."""
        T = self.position.shape[1]
        start, stop = self.start[:, -T:, None], self.stop[:, -T:, None]
        exists = keys < stop - start
        if mask is None:
            return exists
        places = torch.minimum(start + keys, stop - 1)
        return exists & mask.gather(1, places.flatten(1)).view_as(places)

    def see(self, rule: Visibility, keys: Int[Tensor, " N"], mask: Bool[Tensor, "B S"] | None) -> Bool[Tensor, "B T N"]:
        """Whether each row may read each of a few chosen keys of its own sample."""
        low, high = reader_range(rule, keys)
        position = self.position[..., None]
        return (position >= low) & (position < high) & self.at(keys, mask)

    def readers(self, rule: Visibility, rows: Bool[Tensor, "B T"]) -> Int[Tensor, "B S"]:
        """How many of the marked rows may read each key, before any key mask."""
        T, S = rows.shape[1], self.place.shape[1]
        counted = torch.nn.functional.pad(rows.cumsum(-1), (1, 0))
        bounds = (
            (torch.minimum(bound.clamp(min=0), self.stop - self.start) + self.start - (S - T)).clamp(0, T)
            for bound in reader_range(rule, self.place)
        )
        low, high = bounds
        return counted.gather(1, torch.maximum(low, high)) - counted.gather(1, low)

    def sum_rows(self, x: Shaped[Tensor, "B H T N"]) -> Tensor:
        """The sum over the rows of each sample, [count H N], in double where the device has it."""
        if not self.packed:
            return x.sum(2, dtype=precise(x))
        total = torch.zeros(self.count, x.shape[1], x.shape[3], dtype=precise(x), device=x.device)
        return total.index_add(0, self.number.flatten(), x.transpose(1, 2).flatten(0, 1).to(total.dtype))

    def sum_places(self, x: Shaped[Tensor, "B H S"]) -> Tensor:
        """The sum over samples, [H n], by the key's place in its own sample; n is the longest sample."""
        if not self.packed:
            return x.sum(0, dtype=precise(x))
        longest = int(self.place.max()) + 1
        total = torch.zeros(longest, x.shape[1], dtype=precise(x), device=x.device)
        return total.index_add(0, self.place.flatten(), x.transpose(1, 2).flatten(0, 1).to(total.dtype)).T
