"""What memory a piece of torch code asks for, counted by storage."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Largest storage made inside, and the most bytes of such storages alive at once. What was there before, and what
    an operator takes and frees by itself, does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._count((args, kwargs), made=False)
        results = func(*args, **(kwargs or {}))
        self._count(results, made=True)
        return results

    def _count(self, values: Any, made: bool) -> None:
        for x in tree_leaves(values):
            if not isinstance(x, Tensor) or x.layout != torch.strided:
                continue
            storage = x.untyped_storage()
            key, size = storage._cdata, storage.nbytes() if made else 0
            if key in self._known:
                continue
            self._known.add(key)
            self.largest, self.alive = max(self.largest, size), self.alive + size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size
