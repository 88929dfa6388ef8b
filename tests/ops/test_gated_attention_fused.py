"""Gated attention in Triton where its own logic could fail: tiles, segments, ties, NaN, gradients one at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gatescope_kernels import STATISTICS, Visibility, gated_attention, gated_attention_with_stats
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def results(impl: str, leaves: list[Tensor], **options: Any) -> dict[str, Tensor]:
    q, k, v, gate, sink = leaves
    out, stats = gated_attention_with_stats(q, k, v, gate=gate, sink=sink, impl=impl, **options)
    return {"out": out} | {name: getattr(stats, name) for name in ("lse", *STATISTICS, "sink_mass")}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"visibility": Visibility(causal=False)},
        {"visibility": Visibility(window=150, sink_tokens=70)},
        {"visibility": Visibility(causal=False, window=120, sink_tokens=2)},
        {"documents": torch.repeat_interleave(torch.arange(3), torch.tensor([3, 217, 60]))[None].to(DEVICE)},
    ],
    ids=["causal", "full", "window", "two_sided_window", "documents"],
)
def test_equals_blockwise_over_several_tiles(options: dict[str, Any]) -> None:
    """Long enough for tiles that every row sees whole, tiles at both edges, and sink tokens apart from the window."""
    leaves = [normal(*shape, seed=n) for n, shape in enumerate(((1, 1, 280, 16), *[(1, 1, 280, 16)] * 3, (1,)))]
    found, grads = [], []
    for impl in ("blockwise", "fused"):
        used = [x.clone().requires_grad_() for x in leaves]
        found.append(results(impl, used, keys=(0, 69, 40), **options))
        loss = sum((x * torch.linspace(-1, 1, x.numel(), device=DEVICE).view_as(x)).sum() for x in found[-1].values())
        grads.append(torch.autograd.grad(loss, used))
    for name, x in found[0].items():
        torch.testing.assert_close(found[1][name], x, atol=2e-5, rtol=1e-5, msg=lambda text, at=name: f"{at}: {text}")
    for got, wanted in zip(grads[1], grads[0], strict=True):
        torch.testing.assert_close(got, wanted, atol=2e-4, rtol=1e-4)


def test_equal_keys_share_nothing_of_the_largest_logit() -> None:
    """All logits are the same: the gradient of max_logit goes to the first visible key, across tiles as well."""
    q, k = torch.ones(1, 1, 140, 4, device=DEVICE), torch.ones(1, 1, 140, 4, device=DEVICE, requires_grad=True)
    rule = Visibility(window=130)
    _, stats = gated_attention_with_stats(q, k, k.detach(), visibility=rule, stats=("max_logit",), impl="fused")
    (grad,) = torch.autograd.grad(stats.max_logit.sum(), k)
    first = torch.arange(140, device=DEVICE).sub(129).clamp(min=0)
    torch.testing.assert_close(grad[0, 0, :, 0], torch.bincount(first, minlength=140) / 2)


@pytest.mark.parametrize("place", ["query", "key", "value"])
def test_nan_is_seen_in_every_row_that_reads_it(place: str) -> None:
    q, k, v = (normal(1, 1, 8, 4, seed=n) for n in range(3))
    {"query": q, "key": k, "value": v}[place][0, 0, 5, 0] = torch.nan
    out, found = gated_attention_with_stats(q, k, v, impl="fused")
    rows = [5] if place == "query" else [5, 6, 7]
    assert out.isnan().any(-1)[0, 0][rows].all()
    if place != "value":
        for statistic in (found.lse, found.entropy, found.max_logit, found.mass[..., 0]):
            assert statistic.isnan()[0, 0].nonzero().flatten().tolist() == rows


def test_only_wanted_gradients_and_only_wanted_statistics() -> None:
    leaves = [normal(1, 2, 20, 8, seed=n) for n in range(4)]
    for n in range(4):
        used = [x.clone().requires_grad_(m == n) for m, x in enumerate(leaves)]
        q, k, v, gate = used
        grads = []
        for impl in ("blockwise", "fused"):
            out = gated_attention(q, k, v, gate=gate, impl=impl)
            grads.append(torch.autograd.grad(out.square().sum(), used[n])[0])
        torch.testing.assert_close(grads[1], grads[0], atol=1e-5, rtol=1e-5)
    _, stats = gated_attention_with_stats(*leaves[:3], stats=("entropy",), impl="fused")
    assert (stats.max_logit, stats.mass, stats.key_mass, stats.sink_mass) == (None,) * 4


@pytest.mark.parametrize("scale", [-0.5, 0.0, 30.0])
def test_any_scale(scale: float) -> None:
    leaves = [normal(1, 1, 30, 8, seed=n) for n in range(3)]
    sink = torch.zeros(1, device=DEVICE)
    both = []
    for impl in ("blockwise", "fused"):
        used = [x.clone().requires_grad_() for x in leaves]
        found = results(impl, [*used, None, sink], scale=scale)
        both.append([*found.values(), *torch.autograd.grad(sum(x.sum() for x in found.values()), used)])
    for wanted, got in zip(*both, strict=True):
        torch.testing.assert_close(got, wanted, atol=2e-4, rtol=2e-4)
