"""N:M masked linear against oracles that share no code with it."""

from __future__ import annotations

import math
import random
from itertools import combinations
from typing import Any

import pytest
import torch
from gatescope_kernels import Refusal, mask_divergence, nm_linear, nm_mask, nm_valid
from gatescope_kernels.allocations import Allocations
from gatescope_kernels.bench import contests, hold
from gatescope_kernels.ops.nm_linear import blockwise, fused, reference
from gatescope_kernels.ops.nm_linear.row import ROW
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.ao.pruning import WeightNormSparsifier
from torch.nn.functional import linear

IMPLS = ROW.implementations
MASKS = {"reference": reference.mask_of, "blockwise": blockwise.mask_of, "fused": fused.mask_of}
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FUSED_DTYPES = DTYPES[1:] if DEVICE == "cuda" else (torch.float32, torch.float16)
NAN, INF = float("nan"), float("inf")


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE, dtype)


def widest(impl: str) -> torch.dtype:
    return torch.float32 if impl == "fused" else torch.float64


def masks(dtype: torch.dtype) -> list[Any]:
    return [mask_of for name, mask_of in MASKS.items() if name != "fused" or dtype in FUSED_DTYPES]


def best_places(group: list[float], n: int) -> tuple[int, ...]:
    """Of all ways to keep n, the largest sum of magnitudes; combinations come lowest places first, and max keeps it."""
    return max(combinations(range(len(group)), n), key=lambda places: sum(abs(group[i]) for i in places))


def enumerated_mask(weight: Tensor, n: int, m: int) -> Tensor:
    groups = [best_places(group, n) for group in weight.view(-1, m).tolist()]
    return torch.tensor([[i in places for i in range(m)] for places in groups], device=DEVICE).view(weight.shape)


def sorted_mask(weight: Tensor, n: int, m: int) -> Tensor:
    """As enumerated_mask, for groups with too many ways to keep n."""
    groups = weight.detach().view(-1, m).tolist()
    kept = [sorted(range(m), key=lambda i: (-abs(group[i]), i))[:n] for group in groups]
    return torch.tensor([[i in places for i in range(m)] for places in kept], device=DEVICE).view(weight.shape)


def prune(weight: Tensor, n: int, m: int) -> Tensor:
    return weight.detach() * enumerated_mask(weight, n, m)


@pytest.mark.parametrize("mask_of", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 2), (1, 4), (2, 4), (3, 4), (4, 4), (3, 5), (4, 8), (2, 10)])
def test_mask_is_the_best_of_all_masks(mask_of: Any, n: int, m: int) -> None:
    # Small integers: their sums are exact, and most groups have ties.
    weight = normal(12, 6 * m, seed=m, dtype=torch.float32).mul(2).round()
    assert torch.equal(mask_of(weight, n, m), enumerated_mask(weight, n, m))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_order_and_tie_of_four(dtype: torch.dtype, n: int) -> None:
    """All 4^4 groups of four magnitudes, with signs."""
    weight = torch.cartesian_prod(*[torch.tensor([0.0, -1.0, 2.0, -3.0])] * 4).to(DEVICE, dtype)
    for mask_of in masks(dtype):
        assert torch.equal(mask_of(weight, n, 4), enumerated_mask(weight, n, 4))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [4, 12])
def test_not_a_number_ranks_first_and_zero_has_no_sign(dtype: torch.dtype, m: int) -> None:
    rows = [[1.0, INF, -NAN, NAN], [-INF, INF, NAN, 9.0], [-0.0, 0.0, -0.0, 0.0], [NAN, NAN, NAN, NAN]]
    weight = torch.tensor([row + [0.0] * (m - 4) for row in rows], dtype=dtype, device=DEVICE)
    wanted = [[2, 3], [0, 2], [0, 1], [0, 1]]
    for mask_of in masks(dtype):
        assert [row.nonzero().flatten().tolist() for row in mask_of(weight, 2, m)] == wanted


def test_nan_payloads_tie() -> None:
    weight = torch.tensor([[0x7FC00000, 0x7FC00001, -1, 0x7F800000]], dtype=torch.int32).to(DEVICE).view(torch.float32)
    for mask_of in MASKS.values():
        assert mask_of(weight, 2, 4).tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormals_and_extremes_rank(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    weight = torch.tensor([[info.smallest_normal, -info.max, info.max / 2, -info.tiny / 2]], dtype=dtype, device=DEVICE)
    for mask_of in masks(dtype):
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
    for impl in ("reference", "blockwise"):
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
    dtype = widest(impl)
    x, weight = normal(*shape, seed=1, dtype=dtype), normal(6, 8, seed=2, dtype=dtype)
    bias = normal(6, seed=3, dtype=dtype) if biased else None
    pruned = prune(weight, 2, 4)
    leaves = [leaf.clone().requires_grad_() for leaf in (x, pruned, bias) if leaf is not None]
    wanted = linear(*leaves)
    upstream = normal(*wanted.shape, seed=4, dtype=dtype)
    grads = list(torch.autograd.grad(wanted, leaves, upstream))
    mask = pruned != 0
    grads[1] = {"ste": grads[1], "srste": grads[1] + decay * (weight - pruned), "masked": grads[1] * mask}[kind]

    ours = [leaf.clone().requires_grad_() for leaf in (x, weight, bias) if leaf is not None]
    y = nm_linear(*ours, backward=kind, decay=decay, impl=impl)
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(torch.autograd.grad(y, ours, upstream), tuple(grads))


@pytest.mark.parametrize("impl", ["reference", "blockwise"])
@pytest.mark.parametrize("m", [4, 12])
def test_gradcheck(impl: str, m: int) -> None:
    """Away from ties the mask is constant, and "masked" is the exact gradient of what is computed."""
    leaves = [x.requires_grad_() for x in (normal(3, 12, seed=1), normal(2, 12, seed=2), normal(2, seed=3))]
    assert torch.autograd.gradcheck(lambda *a: nm_linear(*a, n=2, m=m, backward="masked", impl=impl), leaves)


@pytest.mark.parametrize("impl", IMPLS)
def test_decay_is_added_once_whatever_the_loss_is_scaled_by(impl: str) -> None:
    x, weight = (normal(*shape, seed=2, dtype=widest(impl)) for shape in ((3, 8), (2, 8)))
    weight.requires_grad_()
    small, large = (
        torch.autograd.grad(nm_linear(x, weight, decay=0.1, impl=impl).sum() * scale, weight)[0] for scale in (1, 1000)
    )
    pull = 0.1 * (weight - prune(weight, 2, 4)).detach()
    torch.testing.assert_close((large - pull) / 1000, small - pull, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("wanting", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_only_gradients_asked_for(impl: str, wanting: tuple[int, ...]) -> None:
    inputs = [normal(*shape, seed=i, dtype=widest(impl)) for i, shape in enumerate(((3, 8), (2, 8), (2,)))]
    for i in wanting:
        inputs[i].requires_grad_()
    every = [x.detach().requires_grad_() for x in inputs]
    got = torch.autograd.grad(nm_linear(*inputs, impl=impl).sum(), [inputs[i] for i in wanting])
    wanted = torch.autograd.grad(nm_linear(*every).sum(), every)
    torch.testing.assert_close(got, tuple(wanted[i] for i in wanting))


@pytest.mark.parametrize("dtype", DTYPES)
def test_keeps_the_dtype_and_accumulates_wide(dtype: torch.dtype) -> None:
    """Adding 4,096 ones in fp16 or bf16 stops at 2,048 and 256."""
    x, weight = (torch.ones(rows, 8192, dtype=dtype, device=DEVICE) for rows in (2, 3))
    for impl in IMPLS if dtype in FUSED_DTYPES else IMPLS[:2]:
        y = nm_linear(x, weight, impl=impl)
        assert y.dtype == dtype
        assert (y == 4096).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("place", "value"), [("x", NAN), ("weight", NAN), ("weight", INF), ("bias", NAN)])
def test_nan_shows_where_it_is_read(impl: str, place: str, value: float) -> None:
    shapes = {"x": (3, 8), "weight": (4, 8), "bias": (4,)}
    tensors = {name: normal(*shape, dtype=widest(impl)) for name, shape in shapes.items()}
    tensors[place][1, ...] = value
    finite = nm_linear(**tensors, impl=impl).isfinite()
    reads = torch.zeros(3, 4, dtype=torch.bool, device=DEVICE)
    reads[(1, slice(None)) if place == "x" else (slice(None), 1)] = True
    assert torch.equal(~finite, reads)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_pruned_infinity_shows(impl: str) -> None:
    x, weight = (normal(rows, 4, dtype=widest(impl)) for rows in (3, 2))
    weight[1] = torch.tensor([INF, -INF, INF, 0.0])
    leaves = [t.requires_grad_() for t in (x, weight)]
    y = nm_linear(*leaves, impl=impl)
    assert torch.equal(y.isnan().any(0).cpu(), torch.tensor([False, True]))
    dx, dweight = torch.autograd.grad(y[:, 1].sum(), leaves)
    assert torch.equal(dx.isnan().any(0).cpu(), torch.tensor([False, False, True, False]))
    assert torch.equal(dweight[1].isfinite().cpu(), torch.tensor([False, False, False, True]))


@pytest.mark.parametrize("impl", ["blockwise", "fused"])
def test_saves_a_byte_a_weight_and_no_masked_weight(impl: str) -> None:
    x, weight = (normal(rows, 64, dtype=widest(impl)).requires_grad_() for rows in (5, 32))
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        nm_linear(x, weight, impl=impl)
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
    x = torch.zeros(1, 8, dtype=weight.dtype, device=DEVICE)
    for kind, shrink in (("srste", 0.9), ("ste", 1.0)):
        leaf = weight.clone().requires_grad_()
        (grad,) = torch.autograd.grad(nm_linear(x, leaf, backward=kind, decay=0.1).sum(), leaf)
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
    refused = interpreted = 0
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
        if dtype in FUSED_DTYPES and case % 20 == 0:
            again = nm_linear(*leaves, bias, n=n, m=m, backward=backward, decay=decay, impl="fused")
            size = y.detach().abs().max().item()
            torch.testing.assert_close(again, y, rtol=1e-5, atol=1e-6 * size)
            torch.testing.assert_close(torch.autograd.grad(again.sum(), leaves), grads, rtol=1e-4, atol=1e-5)
            interpreted += 1
        mask = sorted_mask(weight, n, m)
        wide, rows = weight.detach().double(), x.detach().double().reshape(-1, D)
        g = rows.sum(0).expand_as(wide)
        dweight = {"ste": g, "srste": g + decay * (~mask * wide), "masked": g * mask}[backward]
        wanted = (
            linear(x.detach().double(), wide * mask, None if bias is None else bias.double()),
            (wide * mask).sum(0).expand_as(x),
            dweight,
        )
        for ours, oracle in zip((y, *grads), wanted, strict=True):
            size = max(1.0, oracle.abs().max().item())
            assert (ours.double() - oracle).abs().max().item() <= 4 * torch.finfo(dtype).eps * size * math.sqrt(D), case
    assert 250 < refused < 500
    assert interpreted >= 8


@pytest.mark.parametrize("impl", IMPLS)
def test_torch_prunes_the_same_weights_and_teaches_them_the_same(impl: str) -> None:
    """torch.ao's sparsifier zeroes the smallest of each block by norm, and its gradient is that of "masked"."""
    layer = torch.nn.Linear(24, 10, device=DEVICE, dtype=widest(impl))
    weight, bias = layer.weight.detach().clone().requires_grad_(), layer.bias.detach().clone().requires_grad_()
    sparsifier = WeightNormSparsifier(sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2)
    sparsifier.prepare(torch.nn.Sequential(layer), [{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    x, upstream = normal(5, 24, dtype=weight.dtype), normal(5, 10, seed=1, dtype=weight.dtype)
    wanted = layer(x)
    y = nm_linear(x, weight, bias, backward="masked", impl=impl)
    torch.testing.assert_close(y, wanted)
    theirs = layer.parametrizations.weight.original, layer.bias
    torch.testing.assert_close(
        torch.autograd.grad(y, (weight, bias), upstream), torch.autograd.grad(wanted, theirs, upstream)
    )


@pytest.mark.parametrize("kind", ["ste", "srste", "masked"])
def test_fused_crosses_tiles_and_bands_of_tiles(kind: str) -> None:
    """Three tiles down in bands of two, three to the right, two or three inside."""
    x, weight, bias = normal(130, 70), normal(130, 70, seed=1), normal(130, seed=2)
    upstream = normal(130, 130, seed=3)
    found = []
    for impl, dtype in (("fused", torch.float32), ("blockwise", torch.float64)):
        leaves = [t.to(dtype).requires_grad_() for t in (x, weight.float(), bias)]
        y = nm_linear(*leaves, n=2, m=5, backward=kind, decay=0.5, impl=impl)
        found.append([t.double() for t in (y, *torch.autograd.grad(y, leaves, upstream.to(dtype)))])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-4)


def test_fused_ranks_a_long_row_and_a_strided_weight() -> None:
    """Longer than one tile of the mask, in groups of any size; steps between rows and between columns."""
    weight = normal(3, 560, dtype=torch.float32).mul(4).round()
    for n, m in ((2, 7), (9, 35)):
        for each in (weight, weight.mT.contiguous().mT, weight.repeat_interleave(2, 1)[:, ::2]):
            assert torch.equal(fused.mask_of(each, n, m), reference.mask_of(weight, n, m))


def test_fused_takes_an_expanded_gradient() -> None:
    """The gradient of a sum has one element in memory; the gradient of a transposed result is transposed."""
    x, weight = (normal(*shape, dtype=torch.float32) for shape in ((2, 5, 8), (6, 8)))
    for read in (torch.sum, lambda y: (y.mT.contiguous() ** 2).sum()):
        grads = []
        for impl in ("fused", "reference"):
            leaves = [t.clone().requires_grad_() for t in (x, weight)]
            grads.append(torch.autograd.grad(read(nm_linear(*leaves, impl=impl)), leaves))
        torch.testing.assert_close(*grads)
