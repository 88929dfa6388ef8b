"""No implementation but the reference may hold T x S elements: every tensor made on the way is counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gatescope_kernels import STATISTICS, Visibility, gated_attention_with_stats
from gatescope_kernels.allocations import Allocations


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


@pytest.mark.parametrize("stats", [(), ("mass",), STATISTICS])
@pytest.mark.parametrize("rule", [Visibility(), Visibility(causal=False), Visibility(window=300, sink_tokens=4)])
def test_packed_documents_grow_linearly(stats: tuple[str, ...], rule: Visibility) -> None:
    """One of half the length, and many short ones."""
    short, long = (
        measure(
            T, "blockwise", stats=stats, visibility=rule, documents=(torch.arange(T) // 40).clamp(max=T // 80)[None]
        )
        for T in (1024, 2048)
    )
    assert long.largest < 2048 * 2048 * 4 / 8
    assert long.largest <= 2.01 * short.largest
    assert long.peak <= 2.2 * short.peak


def test_statistics_take_a_fiftieth_of_the_matrix() -> None:
    """All statistics of 12 heads at T = 4,096, beside scores and probabilities as eager attention holds them."""
    H, T, K = 12, 4096, 64
    q = torch.ones(1, H, T, K)
    with Allocations() as allocations:
        out, _ = gated_attention_with_stats(q, q, q, impl="blockwise")
    extra = allocations.peak - q.nbytes - out.nbytes
    assert extra <= 2 * H * T * T * 4 / 50


def test_the_measure_sees_a_matrix() -> None:
    short, long = (measure(T, "reference", stats=STATISTICS) for T in (512, 1024))
    assert long.largest >= 1024 * 1024 * 4
    assert long.peak > 3.5 * short.peak
