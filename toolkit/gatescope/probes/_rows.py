"""Single rows and columns of attention, on demand: what one token reads, and who reads it, without T x T."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from gatescope_kernels import AttentionStats
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gatescope.errors import Refusal
from gatescope.probes._readers import Samples, reader_range
from gatescope.taps import AttentionCall, Event, Handler


@dataclass(frozen=True, slots=True)
class LayerRows:
    """Statistics of one layer's attention, a number a row or a key.

    first     attention of every row to key 0                              [H T]
    entropy   of every row, in nats                                        [H T]
    visible   keys that a row can see                                      [T]
    received  attention that a key receives, summed over rows              [H S]
    """

    first: Float[Tensor, "H T"]
    entropy: Float[Tensor, "H T"]
    visible: Int[Tensor, " T"]
    received: Float[Tensor, "H S"]


class AttentionRows(Handler):
    """Keeps queries, keys and LSE of a pass over one sequence, and computes any row or column of A from them.

        A[i, j] = exp(score[i, j] - LSE[i]) where i may read j, else 0

        rows = AttentionRows()
        with torch.no_grad(), attached(model, rows):
            model(tokens)
        rows.reads(layer=3, query=10, head=0)       # A[10, :], [S]
        rows.read_by(layer=3, key=0)                # A[:, 0], mean over heads, [T]

    A row costs O(S K) time a head. What is kept is O(T K) a head and layer: 23 MB for 30 layers, 9 heads that share 3
    keys, K = 64, T = 256 in fp32. A later pass replaces an earlier one. It is no probe: it makes no record.

    Raises Refusal for more than one sequence at once, and, asked for a row, for a layer, head or position that there is
    not.
    """

    sites = frozenset({"attention"})
    stats = frozenset({"mass", "entropy", "key_mass"})
    mass_keys = (0,)

    def __init__(self) -> None:
        self._kept: dict[int, tuple[AttentionCall, Tensor, LayerRows]] = {}

    def watch(self, event: Event) -> None:
        """Keep one attention."""
        call, stats = cast(AttentionCall, event.value), cast(AttentionStats, event.stats)
        if call.q.shape[0] != 1:
            step = "give the model one sequence at a time"
            raise Refusal("AttentionRows", "one sequence", f"a batch of {call.q.shape[0]}", step)
        mass, entropy, received = (cast(Tensor, x)[0] for x in (stats.mass, stats.entropy, stats.key_mass))
        about = LayerRows(mass[..., 0], entropy, stats.visible[0], received)
        self._kept[event.layer or 0] = (call, stats.lse[0], about)

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers seen."""
        return tuple(sorted(self._kept))

    @property
    def heads(self) -> int:
        """Query heads of the layer that has the most."""
        return max((call.q.shape[1] for call, _, _ in self._kept.values()), default=0)

    def layer(self, layer: int) -> LayerRows:
        """The statistics of one layer. Raises Refusal when it was not seen."""
        return self._at(layer)[2]

    def reads(self, layer: int, query: int, head: int | None = None) -> Float[Tensor, " S"]:
        """A[query, :] of a head, or its mean over heads."""
        call, lse, _ = self._at(layer)
        place = self._place("query", query, call.q.shape[2])
        weight = _weights(call, lse, slice(place, place + 1), slice(None))[:, 0]
        return self._of(weight, head)

    def read_by(self, layer: int, key: int, head: int | None = None) -> Float[Tensor, " T"]:
        """A[:, key] of a head, or its mean over heads."""
        call, lse, _ = self._at(layer)
        place = self._place("key", key, call.k.shape[2])
        return self._of(_weights(call, lse, slice(None), slice(place, place + 1))[..., 0], head)

    def _at(self, layer: int) -> tuple[AttentionCall, Tensor, LayerRows]:
        if layer not in self._kept:
            seen = ", ".join(map(str, self.layers)) or "none: run the model while this is attached"
            raise Refusal("AttentionRows", "a layer that was seen", str(layer), f"seen: {seen}")
        return self._kept[layer]

    @staticmethod
    def _place(what: str, place: int, length: int) -> int:
        if not 0 <= place < length:
            raise Refusal("AttentionRows", f"a {what} in [0, {length})", str(place), "positions count from 0")
        return place

    @staticmethod
    def _of(weight: Float[Tensor, "H n"], head: int | None) -> Float[Tensor, " n"]:
        if head is None:
            return weight.mean(0)
        if not 0 <= head < len(weight):
            step = "leave it out for the mean over heads"
            raise Refusal("AttentionRows", f"a head in [0, {len(weight)})", str(head), step)
        return weight[head]


def _weights(call: AttentionCall, lse: Float[Tensor, "H T"], rows: slice, keys: slice) -> Float[Tensor, "H t s"]:
    """A block of A, as precise as the LSE. The call has no block mask: what the operator measured is spelled."""
    H, _, K = call.q.shape[1:]
    G = call.k.shape[1]
    scale = K**-0.5 if call.scale is None else call.scale
    q, k = call.q[0, :, rows].to(lse.dtype), call.k[0, :, keys].to(lse.dtype)
    score = torch.einsum("grtk,gsk->grts", q.unflatten(0, (G, H // G)), k).flatten(0, 1) * scale
    if call.softcap is not None:
        score = call.softcap * torch.tanh(score / call.softcap)
    weight = (score - lse[:, rows, None]).exp()
    return torch.where(_seen(call, rows, keys), weight, 0.0)


def _seen(call: AttentionCall, rows: slice, keys: slice) -> Bool[Tensor, "t s"]:
    samples = Samples.of(call)
    T = call.q.shape[2]
    position, place = samples.position[0, rows, None], samples.place[0, keys]
    low, high = reader_range(call.visibility, place)
    # Packed documents have as many rows as keys; without them start is the same for all.
    same = samples.start[0, -T:][rows, None] == samples.start[0, keys]
    seen = same & (position >= low) & (position < high)
    return seen if call.key_mask is None else seen & call.key_mask[0, keys]
