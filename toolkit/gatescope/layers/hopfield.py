"""A Hopfield layer: states read a memory of patterns, once or until they rest."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from gatescope_kernels import Visibility
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gatescope.errors import Refusal
from gatescope.layers.init import linear
from gatescope.normalisers import NormaliserSpec, normalise
from gatescope.taps import AttentionCall, attend

#: Normalisers that the attention operator has, and the sink that makes it so.
_OPERATOR_SINK = {"softmax": None, "off_by_one": 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class HopfieldSpec:
    """How states read stored patterns.

    beta         inverse temperature; None: 1 / sqrt(channels of the association space), as attention has it
    updates      the most updates of the state; the last one reads the values
    tolerance    updates end when no state moved further, Euclidean; 0: all are made
    normaliser   what turns scores into weights
    n_heads      memories side by side
    head_dim     channels of the association space of one head; None: states and patterns are compared as they are, and
                 what is retrieved is a pattern (one head, no weights)

    Raises Refusal for values out of range, and for several heads without a head_dim.
    """

    beta: float | None = None
    updates: int = 1
    tolerance: float = 0.0
    normaliser: NormaliserSpec = field(default_factory=NormaliserSpec)
    n_heads: int = 1
    head_dim: int | None = None

    def __post_init__(self) -> None:
        if self.beta is not None and not (math.isfinite(self.beta) and self.beta > 0):
            raise Refusal("HopfieldSpec", "a finite beta above 0, or None", f"{self.beta}", "small values average")
        if self.updates < 1 or self.tolerance < 0:
            got = f"updates={self.updates}, tolerance={self.tolerance}"
            raise Refusal("HopfieldSpec", "updates >= 1 and a tolerance of 0 or more", got, "1 update is attention")
        if self.n_heads < 1 or (self.head_dim is not None and self.head_dim < 1):
            got = f"n_heads={self.n_heads}, head_dim={self.head_dim}"
            raise Refusal("HopfieldSpec", "sizes of 1 or more", got, "pass positive sizes")
        if self.head_dim is None and self.n_heads > 1:
            raise Refusal("HopfieldSpec", "a head_dim for several heads", "None", "heads need projections of their own")


class Hopfield(nn.Module):
    """The layer of a `HopfieldSpec`.

        Q = R W_Q,  K = Y W_K,  V = Y W_V             R the states, Y the stored patterns
        Q <- normalise(beta Q K^T) K                  updates - 1 times, or until nothing moves
        Z = normalise(beta Q K^T) V W_O

    Without head_dim there are no weights: Q = R, K = V = Y and Z is the retrieved pattern. With one update and softmax
    it is attention, and like every attention of this project it is shown at the tap "attention".

    Source: Ramsauer et al. 2020 (arXiv 2008.02217), eq. 10 and the layer Hopfield of their code, whose layer norms are
    left to the block around it; other normalisers after Santos et al. 2024 (arXiv 2402.13725).
    """

    def __init__(
        self,
        spec: HopfieldSpec,
        d_model: int,
        *,
        layer: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.layer = spec, layer
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = [None] * 4
        if spec.head_dim is not None:
            width = spec.n_heads * spec.head_dim
            self.q_proj, self.k_proj, self.v_proj = (linear(d_model, width, generator) for _ in range(3))
            self.o_proj = linear(width, d_model, generator)

    @property
    def tap_sites(self) -> frozenset[str]:
        """The sites of taps.SITES that a forward pass shows."""
        return frozenset({"attention"} if self.spec.normaliser.name in _OPERATOR_SINK else ())

    def forward(
        self,
        state: Float[Tensor, "B T D"],
        stored: Float[Tensor, "B S D"],
        stored_mask: Bool[Tensor, "B S"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """What the states retrieve; patterns where ``stored_mask`` is False are not read."""
        q, k, v = self._heads(self.q_proj, state), self._heads(self.k_proj, stored), self._heads(self.v_proj, stored)
        for _ in range(self.spec.updates - 1):
            moved = self._read(q, k, k, stored_mask)
            at_rest = bool(((moved - q).norm(dim=-1) <= self.spec.tolerance).all())
            q = moved
            if at_rest:
                break
        read = self._read(q, k, v, stored_mask).transpose(1, 2).flatten(2)
        return read if self.o_proj is None else self.o_proj(read)

    def _heads(self, projection: nn.Linear | None, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B H N K"]:
        if projection is None:
            return x[:, None]
        return projection(x).unflatten(-1, (self.spec.n_heads, -1)).transpose(1, 2)

    def _read(
        self,
        q: Float[Tensor, "B H T K"],
        k: Float[Tensor, "B H S K"],
        v: Float[Tensor, "B H S V"],
        mask: Bool[Tensor, "B S"] | None,
    ) -> Float[Tensor, "B H T V"]:
        beta = 1 / math.sqrt(k.shape[-1]) if self.spec.beta is None else self.spec.beta
        name = self.spec.normaliser.name
        if name in _OPERATOR_SINK:
            call = AttentionCall(
                q, k, v, sink=_OPERATOR_SINK[name], visibility=Visibility(causal=False), key_mask=mask, scale=beta
            )
            return attend(call, layer=self.layer)
        scores = beta * q @ k.mT
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
        return normalise(scores, self.spec.normaliser) @ v

    def extra_repr(self) -> str:
        """What a printed model says about this memory."""
        spec = self.spec
        return f"beta={spec.beta}, updates={spec.updates}, {spec.normaliser.name}, heads={spec.n_heads}"
