"""N:M masked linear against oracles that share no code with it."""

from __future__ import annotations

import math
import random
from itertools import combinations
from typing import Any

import pytest
import torch
from allocations import Allocations
from gatescope_kernels import Refusal, mask_divergence, nm_linear, nm_mask, nm_valid
from gatescope_kernels.bench import contests, hold
from gatescope_kernels.ops.nm_linear import blockwise, reference
from gatescope_kernels.ops.nm_linear.row import ROW
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import linear

IMPLS = ROW.implementations
MASKS = {"reference": reference.mask_of, "blockwise": blockwise.mask_of}
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
NAN, INF = float("nan"), float("inf")


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def best_places(group: list[float], n: int) -> tuple[int, ...]:
    """Of all ways to keep n, the largest sum of magnitudes; combinations come lowest places first, and max keeps it."""
    return max(combinations(range(len(group)), n), key=lambda places: sum(abs(group[i]) for i in places))


def enumerated_mask(weight: Tensor, n: int, m: int) -> Tensor:
    groups = [best_places(group, n) for group in weight.view(-1, m).tolist()]
    return torch.tensor([[i in places for i in range(m)] for places in groups]).view(weight.shape)


def sorted_prune(weight: Tensor, n: int, m: int) -> Tensor:
    """As prune, for groups with too many ways to keep n."""
    groups = weight.detach().view(-1, m).tolist()
    for group in groups:
        for i in sorted(range(m), key=lambda i: (-abs(group[i]), i))[n:]:
            group[i] = 0.0
    return torch.tensor(groups, dtype=weight.dtype).view(weight.shape)


def prune(weight: Tensor, n: int, m: int) -> Tensor:
    return weight.detach() * enumerated_mask(weight, n, m)


@pytest.mark.parametrize("mask_of", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 2), (1, 4), (2, 4), (3, 4), (4, 4), (3, 5), (4, 8), (2, 10)])
def test_mask_is_the_best_of_all_masks(mask_of: Any, n: int, m: int) -> None:
    # Small integers: their sums are exact, and most groups have ties.
    weight = normal(12, 6 * m, seed=m).mul(2).round()
    assert torch.equal(mask_of(weight, n, m), enumerated_mask(weight, n, m))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_order_and_tie_of_four(dtype: torch.dtype, n: int) -> None:
    """All 4^4 groups of four magnitudes, with signs."""
    weight = torch.cartesian_prod(*[torch.tensor([0.0, -1.0, 2.0, -3.0])] * 4).to(dtype)
    for mask_of in MASKS.values():
        assert torch.equal(mask_of(weight, n, 4), enumerated_mask(weight, n, 4))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [4, 12])
def test_not_a_number_ranks_first_and_zero_has_no_sign(dtype: torch.dtype, m: int) -> None:
    rows = [[1.0, INF, -NAN, NAN], [-INF, INF, NAN, 9.0], [-0.0, 0.0, -0.0, 0.0], [NAN, NAN, NAN, NAN]]
    weight = torch.tensor([row + [0.0] * (m - 4) for row in rows], dtype=dtype)
    wanted = [[2, 3], [0, 2], [0, 1], [0, 1]]
    for mask_of in MASKS.values():
        assert [row.nonzero().flatten().tolist() for row in mask_of(weight, 2, m)] == wanted


def test_nan_payloads_tie() -> None:
    weight = torch.tensor([[0x7FC00000, 0x7FC00001, -1, 0x7F800000]], dtype=torch.int32).view(torch.float32)
    for mask_of in MASKS.values():
        assert mask_of(weight, 2, 4).tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormals_and_extremes_rank(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    weight = torch.tensor([[info.smallest_normal, -info.max, info.max / 2, -info.tiny / 2]], dtype=dtype)
    for mask_of in MASKS.values():
        assert mask_of(weight, 3, 4).tolist() == [[True, True, True, False]]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), m=st.integers(1, 20), groups=st.integers(1, 5), F=st.integers(1, 6), rows=st.integers(1, 9))
def test_any_shape(data: Any, m: int, groups: int, F: int, rows: int) -> None:
    n, kind = data.draw(st.integers(1, m)), data.draw(st.sampled_from(["ste", "srste", "masked"]))
    weight = normal(F, groups * m, seed=m + F).mul(data.draw(st.sampled_from([1, 100]))).round()
    x = normal(rows, groups * m, seed=rows)
    mask = nm_mask(weight, n, m)
    assert torch.equal(mask, reference.mask_of(weight, n, m))
    assert (mask.view(-1, m).sum(-1) == n).all()
    assert nm_valid(weight * mask, n, m)
    assert torch.equal(nm_mask(weight * mask, n, m) | (weight == 0), mask | (weight == 0))
    found = []
    for impl in IMPLS:
        leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = nm_linear(*leaves, n=n, m=m, backward=kind, impl=impl)
        found.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(8,), (5, 8), (2, 3, 8), (2, 1, 3, 8)])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("kind", "decay"), [("ste", 0.5), ("srste", 0.5), ("srste", 0.0), ("masked", 0.5)])
def test_equals_torch_on_the_pruned_weight(
    impl: str, shape: tuple[int, ...], biased: bool, kind: str, decay: float
) -> None:
    x, weight, bias = normal(*shape, seed=1), normal(6, 8, seed=2), normal(6, seed=3) if biased else None
    pruned = prune(weight, 2, 4)
    leaves = [leaf.clone().requires_grad_() for leaf in (x, pruned, bias) if leaf is not None]
    wanted = linear(*leaves)
    upstream = normal(*wanted.shape, seed=4)
    grads = list(torch.autograd.grad(wanted, leaves, upstream))
    mask = pruned != 0
    grads[1] = {"ste": grads[1], "srste": grads[1] + decay * (weight - pruned), "masked": grads[1] * mask}[kind]

    ours = [leaf.clone().requires_grad_() for leaf in (x, weight, bias) if leaf is not None]
    y = nm_linear(*ours, backward=kind, decay=decay, impl=impl)
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(torch.autograd.grad(y, ours, upstream), tuple(grads))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("m", [4, 12])
def test_gradcheck(impl: str, m: int) -> None:
    """Away from ties the mask is constant, and "masked" is the exact gradient of what is computed."""
    leaves = [x.requires_grad_() for x in (normal(3, 12, seed=1), normal(2, 12, seed=2), normal(2, seed=3))]
    assert torch.autograd.gradcheck(lambda *a: nm_linear(*a, n=2, m=m, backward="masked", impl=impl), leaves)


@pytest.mark.parametrize("impl", IMPLS)
def test_decay_is_added_once_whatever_the_loss_is_scaled_by(impl: str) -> None:
    x, weight = normal(3, 8, seed=1), normal(2, 8, seed=2).requires_grad_()
    small, large = (
        torch.autograd.grad(nm_linear(x, weight, decay=0.1, impl=impl).sum() * scale, weight)[0] for scale in (1, 1000)
    )
    pull = 0.1 * (weight - prune(weight, 2, 4)).detach()
    torch.testing.assert_close((large - pull) / 1000, small - pull)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("wanting", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_only_gradients_asked_for(impl: str, wanting: tuple[int, ...]) -> None:
    inputs = [normal(3, 8, seed=1), normal(2, 8, seed=2), normal(2, seed=3)]
    for i in wanting:
        inputs[i].requires_grad_()
    every = [x.detach().requires_grad_() for x in inputs]
    got = torch.autograd.grad(nm_linear(*inputs, impl=impl).sum(), [inputs[i] for i in wanting])
    wanted = torch.autograd.grad(nm_linear(*every).sum(), every)
    torch.testing.assert_close(got, tuple(wanted[i] for i in wanting))


@pytest.mark.parametrize("dtype", DTYPES)
def test_keeps_the_dtype_and_accumulates_wide(dtype: torch.dtype) -> None:
    """Adding 4,096 ones in fp16 or bf16 stops at 2,048 and 256."""
    x, weight = torch.ones(2, 8192, dtype=dtype), torch.ones(3, 8192, dtype=dtype)
    for impl in IMPLS:
        y = nm_linear(x, weight, impl=impl)
        assert y.dtype == dtype
        assert (y == 4096).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("place", "value"), [("x", NAN), ("weight", NAN), ("weight", INF), ("bias", NAN)])
def test_nan_shows_where_it_is_read(impl: str, place: str, value: float) -> None:
    tensors = {"x": normal(3, 8, seed=1), "weight": normal(4, 8, seed=2), "bias": normal(4, seed=3)}
    tensors[place][1, ...] = value
    finite = nm_linear(**tensors, impl=impl).isfinite()
    reads = torch.zeros(3, 4, dtype=torch.bool)
    reads[(1, slice(None)) if place == "x" else (slice(None), 1)] = True
    assert torch.equal(~finite, reads)


def test_saves_a_byte_a_weight_and_no_masked_weight() -> None:
    x, weight = normal(5, 64).requires_grad_(), normal(32, 64, seed=1).requires_grad_()
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        nm_linear(x, weight)
    own = [t for t in saved if t.data_ptr() not in (x.data_ptr(), weight.data_ptr())]
    assert [(t.dtype, t.numel()) for t in own] == [(torch.bool, weight.numel())]


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (4, 32)])
def test_memory_does_not_grow_with_rows_times_weights(n: int, m: int) -> None:
    """Beyond input and output, a step needs a few copies of the weight, however many rows there are."""
    extra = []
    for rows in (512, 1024):
        x, weight = torch.ones(rows, 128, requires_grad=True), torch.ones(256, 128, requires_grad=True)
        with Allocations() as allocations:
            torch.autograd.grad(nm_linear(x, weight, n=n, m=m).sum(), (x, weight))
        assert allocations.largest <= max(rows * 256, weight.numel() * 2) * 4
        extra.append(allocations.peak - rows * (256 + 128) * 4)
    assert extra[1] <= 1.1 * extra[0]
    assert extra[1] <= 12 * 4 * weight.numel() + 1024


def test_divergence_counts_what_changed() -> None:
    a = torch.tensor([[True, True, False, False], [True, False, True, False]])
    assert mask_divergence(a, a) == 0
    assert mask_divergence(a, ~a) == 1
    assert mask_divergence(a, a.roll(1, 0)) == (a.float() - a.roll(1, 0).float()).abs().sum().item() / 8 == 0.5
    far = [nm_mask(normal(256, 256, seed=seed), 1, 4) for seed in (0, 1)]
    assert mask_divergence(*far) == pytest.approx(2 * 0.25 * 0.75, abs=0.01)


def test_decay_settles_the_mask() -> None:
    """One weight of each pair is read; without a loss, "srste" shrinks the other and "ste" leaves it."""
    weight = normal(4, 8, seed=5)
    for kind, shrink in (("srste", 0.9), ("ste", 1.0)):
        leaf = weight.clone().requires_grad_()
        (grad,) = torch.autograd.grad(nm_linear(torch.zeros(1, 8).double(), leaf, backward=kind, decay=0.1).sum(), leaf)
        pruned = ~nm_mask(weight, 2, 4)
        torch.testing.assert_close((weight - grad)[pruned], shrink * weight[pruned])
        assert torch.equal((weight - grad)[~pruned], weight[~pruned])


@pytest.mark.parametrize(("n", "valid"), [(1, False), (2, True), (4, True)])
def test_valid_counts_non_zeros(n: int, valid: bool) -> None:
    assert nm_valid(torch.tensor([[0.0, 1.0, -0.0, NAN], [0.0, 0.0, 0.0, 0.0]]), n, 4) is valid


def test_agrees_with_its_baselines() -> None:
    first = next(iter(contests("cpu", quick=True, op="nm_linear")))
    assert len(hold(first, rounds=1)) == 1 + len(first.baselines)


@pytest.mark.usefixtures("as_a_user")
def test_fuzz() -> None:
    """1,000 calls with sizes, patterns, dtypes and options, many unfit: a Refusal or the right numbers."""
    draw = random.Random(0)
    refused = 0
    for case in range(1000):
        kind = draw.random()
        m = draw.choice([1, 2, 4, 4, 5, 8, 16, *([0, -4, 2.0] if kind < 0.3 else [])])
        n = draw.choice([1, 1, 2, 3, 0, True] if kind < 0.3 else [min(m, 2), m - m // 2])
        D, F = draw.choice([0, 1, 4, 8, 60] if kind < 0.3 else [80, 160]), draw.choice([1, 3, 16])
        dtype = draw.choice([torch.float64, torch.float32, torch.float16, torch.int32] if kind < 0.3 else DTYPES[:2])
        x = normal(*draw.choice([(D,), (2, D), (2, 3, D), (0, D), (2, D + 1)] if kind < 0.5 else [(2, D)]), seed=case)
        weight = normal(F, D, seed=case + 1) * 10 ** draw.uniform(-6, 3)
        bias = draw.choice([None, normal(F), normal(F + 1) if kind < 0.3 else None])
        x, weight, bias = (None if t is None else t.to(dtype) for t in (x, weight, bias))
        backward = draw.choice(["ste", "srste", "masked", "dense" if kind < 0.2 else "ste"])
        decay = draw.choice([0, 2e-4, 1.0, NAN if kind < 0.2 else 0.1, -1.0 if kind < 0.2 else 0.1])
        leaves = [t.requires_grad_() if t.is_floating_point() else t for t in (x, weight)]
        try:
            y = nm_linear(*leaves, bias, n=n, m=m, backward=backward, decay=decay)
        except Refusal:
            refused += 1
            continue
        grads = torch.autograd.grad(y.sum(), leaves)
        assert all(t.isfinite().all() for t in (y, *grads)), case
        wanted = linear(x.double(), sorted_prune(weight.double(), n, m), None if bias is None else bias.double())
        size = max(1.0, wanted.abs().max().item())
        assert (y.double() - wanted).abs().max().item() <= 4 * torch.finfo(dtype).eps * size * math.sqrt(D), case
    assert 250 < refused < 500
