"""Cache-sized pieces of a tensor, and how they get into and out of the accumulation dtype."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

#: Elements of one block. Two or three such blocks in float32 stay in a core's second-level cache; far smaller ones
#: spend their time in calls.
ELEMENTS = 1 << 18


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Runs of whole rows, of at most ``ELEMENTS`` elements or one row."""
    step = max(1, ELEMENTS // width)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


class Scratch:
    """Reused buffers of the size of one block of ``whole``, in the accumulation dtype."""

    def __init__(self, whole: Tensor, dtype: torch.dtype) -> None:
        rows, width = whole.shape
        self._shape = (min(rows, max(1, ELEMENTS // width)), width)
        self._device, self._dtype = whole.device, dtype
        self._buffers: dict[str, Tensor] = {}

    def buffer(self, name: str, block: Tensor) -> Tensor:
        """Uninitialised memory of the block's shape; the same memory for the same name."""
        if name not in self._buffers:
            self._buffers[name] = torch.empty(self._shape, dtype=self._dtype, device=self._device)
        return self._buffers[name][: block.shape[0]]

    def read(self, name: str, block: Tensor) -> Tensor:
        """The block in the accumulation dtype: itself, or a copy in buffer ``name``."""
        return block if block.dtype == self._dtype else self.buffer(name, block).copy_(block)

    def target(self, name: str, block: Tensor) -> Tensor:
        """Where to write what `store` then puts into the block: the block itself, or buffer ``name``."""
        return block if block.dtype == self._dtype else self.buffer(name, block)


def store(written: Tensor, block: Tensor) -> None:
    """Finish a write that went to `Scratch.target`."""
    if written is not block:
        block.copy_(written)
