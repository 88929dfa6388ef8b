"""Sizes of a problem and of the tiles that the Triton kernels take of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from gatescope_kernels.ops._launch import padded, precision, target

#: Tokens of a chunk; short sequences take less, and so does float32, a product of which is three.
CHUNK, CHUNK_FLOAT32 = 64, 32


@dataclass(frozen=True, slots=True)
class Tiles:
    """C tokens a chunk; K channels padded to KP, W decays a token padded to WP: KP, or 1 that all channels share.

    pairs      channels of a step of ``gla_pairs`` and of a program of ``gla_sums``
    gradients  channels of a program of the gradients
    reads      channels of a step of the outputs
    carried    values of the states that a program carries along the sequence
    values     values of a step or program elsewhere
    options    warps and pipeline stages
    """

    T: int
    K: int
    V: int
    sequences: int
    C: int
    KP: int
    WP: int
    pairs: int
    gradients: int
    reads: int
    carried: int
    values: int
    precision: str
    options: dict[str, int]

    @property
    def chunks(self) -> int:
        """Chunks of a sequence."""
        return -(-self.T // self.C)

    @property
    def programs(self) -> int:
        """Chunks of all sequences: N in the kernels' legends."""
        return self.sequences * self.chunks

    @property
    def parts(self) -> int:
        """Programs of the gradients that share a chunk."""
        return self.KP // self.gradients

    @property
    def carry_grid(self) -> tuple[int, int]:
        """Programs of the kernels that go along the sequence."""
        return self.sequences, -(-self.V // self.carried)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """T, K, V and chunks, as kernels take them."""
        return self.T, self.K, self.V, self.chunks

    def constants(self, **more: int) -> dict[str, Any]:
        """Constants of a kernel that multiplies operands in the inputs' dtype."""
        return {"C": self.C, "PRECISION": self.precision} | self.options | more


def levels(tokens: int) -> int:
    """Halvings of a block of tokens."""
    return tokens.bit_length() - 1


def tiles(q: Tensor, v: Tensor, g: Tensor, beta: Tensor | None) -> Tiles:
    """What fits into registers and shared memory without spills."""
    (B, H, T, K), V = q.shape, v.shape[3]
    machine, single = target(q), q.dtype == torch.float32
    KP, VP = map(padded, (K, V))
    whole = max(16, min(CHUNK, triton.next_power_of_2(T)))
    chosen: tuple[int, int, int, int, int, int, dict[str, int]]
    if machine.backend == "interpreter":
        chosen = (whole, 64, 64, 64, 256, 256, {})
    elif single:
        chosen = (min(whole, CHUNK_FLOAT32), 32, 16, 32, 16, 32, {"warps": 4})
    else:
        # Two kinds of readers with decays a channel keep twice as much; 256 channels are long columns of a state.
        pairs, twofold = (16, False) if machine.name == "sm_100" else (32, beta is not None and g.shape[-1] > 1)
        wide = KP > 128
        # Two stages of the delta rule's columns are more shared memory than Hopper has; the others hold them.
        single_stage = machine.backend == "hip" or (wide and beta is not None and machine.name == "sm_90")
        options = {"warps": 8, "stages": 1 if single_stage else 2}
        chosen = (whole, pairs, 16 if twofold else 32, 64, 16 if wide else 32, 64, options)
    C, pairs, gradients, reads, carried, values, options = chosen
    return Tiles(
        T=T,
        K=K,
        V=V,
        sequences=B * H,
        C=C,
        KP=KP,
        WP=KP if g.shape[-1] > 1 else 1,
        pairs=min(KP, pairs),
        gradients=min(KP, gradients),
        reads=min(KP, reads),
        carried=min(VP, carried),
        values=min(VP, values),
        precision=precision(q),
        options=options,
    )
