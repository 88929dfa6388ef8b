"""No implementation but the reference may hold T x S elements: every tensor made on the way is counted."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from gatescope_kernels import STATISTICS, Visibility, gated_attention_with_stats
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Largest storage made, and the most bytes of such storages alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for x in tree_leaves(results):
            if isinstance(x, Tensor):
                self._count(x.untyped_storage())
        return results

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.largest, self.alive = max(self.largest, size), self.alive + size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def measure(T: int, impl: str, **options: Any) -> Allocations:
    leaves = [torch.ones(1, 1, T, 16, requires_grad=True) for _ in range(3)]
    with Allocations() as allocations:
        out, stats = gated_attention_with_stats(*leaves, impl=impl, **options)
        results = [out, stats.lse, *(getattr(stats, name) for name in options["stats"])]
        torch.autograd.grad(sum(x.sum() for x in results), leaves)
    return allocations


@pytest.mark.parametrize("stats", [(), ("mass",), STATISTICS])
@pytest.mark.parametrize("rule", [Visibility(), Visibility(causal=False), Visibility(window=300, sink_tokens=4)])
def test_blockwise_grows_linearly(stats: tuple[str, ...], rule: Visibility) -> None:
    short, long = (measure(T, "blockwise", stats=stats, visibility=rule) for T in (1024, 2048))
    assert long.largest < 2048 * 2048 * 4 / 8
    assert long.largest <= 2.01 * short.largest
    assert long.peak <= 2.2 * short.peak


def test_the_measure_sees_a_matrix() -> None:
    short, long = (measure(T, "reference", stats=STATISTICS) for T in (512, 1024))
    assert long.largest >= 1024 * 1024 * 4
    assert long.peak > 3.5 * short.peak
