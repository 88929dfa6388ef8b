"""PolyNorm and PolyReLU against oracles that share no code with them."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from gatescope_kernels import Refusal, polynorm, polyrelu
from gatescope_kernels.allocations import Allocations
from gatescope_kernels.bench import contests, hold
from gatescope_kernels.ops._table import OPS
from gatescope_kernels.ops.polynorm import blocks, blockwise
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import rms_norm

IMPLS = OPS["polynorm"].implementations
#: The kernels know no float64, and the interpreter no bfloat16.
WIDE = [impl for impl in IMPLS if impl != "fused"]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def polynorm_in_python(x: list[float], w: list[float], b: float, eps: float) -> list[float]:
    """One row, in Python's numbers."""
    inverse = {k: 1 / math.sqrt(sum(v ** (2 * k) for v in x) / len(x) + eps) for k in (1, 2, 3)}
    return [w[0] * v**3 * inverse[3] + w[1] * v**2 * inverse[2] + w[2] * v * inverse[1] + b for v in x]


@pytest.mark.parametrize("impl", WIDE)
@pytest.mark.parametrize("eps", [1e-6, 0.3])
def test_equals_a_loop_in_python(impl: str, eps: float) -> None:
    x, weight, bias = normal(7, 5), normal(3, seed=1), normal(1, seed=2)
    wanted = [polynorm_in_python(row, weight.tolist(), bias.item(), eps) for row in x.tolist()]
    torch.testing.assert_close(
        polynorm(x, weight, bias, eps=eps, impl=impl), torch.tensor(wanted).double(), atol=1e-6, rtol=1e-6
    )
    a = normal(4, seed=3)
    wanted = [[sum(c * max(v, 0.0) ** i for i, c in enumerate(a.tolist())) for v in row] for row in x.tolist()]
    torch.testing.assert_close(polyrelu(x, a, impl=impl), torch.tensor(wanted, dtype=torch.float64))


def with_torch(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    powers = (x * x * x, x * x, x)
    return sum(w * rms_norm(u, u.shape[-1:], eps=eps) for w, u in zip(weight, powers, strict=True)) + bias


@pytest.mark.parametrize("impl", IMPLS)
def test_equals_torch_rms_norm_of_each_power(impl: str) -> None:
    """Values and gradients."""
    dtype = torch.float32 if impl == "fused" else torch.float64
    leaves = [x.to(dtype).requires_grad_() for x in (normal(3, 9, 33), normal(3, seed=1), normal(1, seed=2))]
    upstream = normal(3, 9, 33, seed=3).to(dtype)
    out, wanted = polynorm(*leaves, impl=impl), with_torch(*leaves, 1e-6)
    torch.testing.assert_close(out, wanted)
    grads = [torch.autograd.grad(y, leaves, upstream) for y in (out, wanted)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e7])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_polynorm_by_differences(scale: float, bias: bool) -> None:
    """Each scale in units of its own: the rows of 1e7 are those that are divided by their size first."""
    x, weight = normal(3, 5), normal(3, seed=1)
    rest = (normal(1, seed=2).requires_grad_(),) if bias else ()

    def f(x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
        return polynorm(x * scale, weight, *bias, impl="blockwise")

    assert torch.autograd.gradcheck(f, (x.requires_grad_(), weight.requires_grad_(), *rest))


def test_gradients_of_polyrelu_by_differences() -> None:
    x, weight = normal(3, 5).requires_grad_(), normal(4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, a: polyrelu(x, a, impl="blockwise"), (x, weight))


@pytest.mark.parametrize("impl", IMPLS)
def test_slope_of_polyrelu_at_zero_is_zero(impl: str) -> None:
    x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    polyrelu(x, torch.tensor([5.0, 3.0, 1.0, 1.0]), impl=impl).sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 3.0 + 2 * 2 + 3 * 4]


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1)])
def test_only_wanted_gradients(needed: tuple[int, ...]) -> None:
    grads = []
    for impl in IMPLS:
        arguments = [x.float() for x in (normal(4, 6), normal(3, seed=1), normal(1, seed=2))]
        leaves = [arguments[i].requires_grad_() for i in needed]
        grads.append(torch.autograd.grad(polynorm(*arguments, impl=impl).square().sum(), leaves))
    for others in grads[1:]:
        torch.testing.assert_close(others, grads[0])


@pytest.mark.parametrize("size", [1e4, 3e5, 1e10, 1e30])
def test_rows_whose_sixth_power_overflows(size: float) -> None:
    """A float32 row of any finite size beside an ordinary one equals the float64 reference, gradients too."""
    x = normal(4, 40, dtype=torch.float32)
    x[1] *= size
    x[2, 3] = size
    results = []
    for impl, dtype in (("reference", torch.float64), ("blockwise", torch.float32), ("fused", torch.float32)):
        leaves = [v.to(dtype).requires_grad_() for v in (x, normal(3, seed=1).float(), normal(1, seed=2).float())]
        out = polynorm(*leaves, impl=impl)
        grads = torch.autograd.grad(out, leaves, normal(4, 40, seed=3).to(dtype))
        # The gradient of a row is as small as the row is large; measured in its own unit it is near 1.
        unit = torch.where(torch.arange(4) == 1, size, 1.0)[:, None].double()
        results.append([out.double(), grads[0].double() * unit, *(grad.double() for grad in grads[1:])])
    for got in results[1:]:
        torch.testing.assert_close(got, results[0], atol=3e-6, rtol=3e-5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.lists(st.integers(1, 5), min_size=0, max_size=3),
    width=st.integers(1, 70),
    exponent=st.integers(-6, 12),
    eps=st.sampled_from([1e-6, 1e-3, 1.0]),
    elements=st.sampled_from([100, 1000, 1 << 18]),
)
def test_any_shape_matches_the_reference(shape, width, exponent, eps, elements) -> None:
    x, weight, bias = normal(*shape, width) * 10.0**exponent, normal(3, seed=1), normal(1, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "ELEMENTS", elements)
        got = polynorm(x, weight, bias, eps=eps, impl="blockwise")
        relu = polyrelu(x, normal(4, seed=3), impl="blockwise")
    torch.testing.assert_close(got, polynorm(x, weight, bias, eps=eps, impl="reference"))
    torch.testing.assert_close(relu, polyrelu(x, normal(4, seed=3), impl="reference"), rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(factor=st.floats(0.1, 1e3), seed=st.integers(0, 99))
def test_scaling_a_row_changes_nothing_but_signs(factor: float, seed: int) -> None:
    """N is scale free where eps is negligible, so y(cx) = y(x); and y(-x) flips the odd powers alone."""
    x, weight = normal(2, 20, seed=seed), normal(3, seed=seed + 1)
    y = polynorm(x, weight, eps=1e-24)
    torch.testing.assert_close(polynorm(x * factor, weight, eps=1e-24), y)
    odd = weight * torch.tensor([-1.0, 1.0, -1.0])
    torch.testing.assert_close(polynorm(-x, weight), polynorm(x, odd))


@pytest.mark.parametrize("elements", [1, 50, 1000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_blocks_change_nothing(elements: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for size in (1 << 18, elements):
        monkeypatch.setattr(blocks, "ELEMENTS", size)
        for function, n in ((polynorm, 3), (polyrelu, 4)):
            x = normal(37, 12)
            x[5] *= 2e4 if dtype == torch.float16 else 1.0
            leaves = [v.to(dtype).clamp(-6e4, 6e4).requires_grad_() for v in (x, normal(n, seed=1) / 1e3)]
            out = function(*leaves, impl="blockwise")
            results.append((out, *torch.autograd.grad(out, leaves, normal(37, 12, seed=2).to(dtype) / 1e3)))
    for whole, split in zip(results[:2], results[2:], strict=True):
        torch.testing.assert_close(split, whole, equal_nan=True)


@pytest.mark.parametrize("x", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("function", [polynorm, polyrelu])
def test_coefficients_may_stay_in_float32(x: torch.dtype, function) -> None:
    weight = normal(3 if function is polynorm else 4, seed=1, dtype=torch.float32).requires_grad_()
    for impl in IMPLS if x == torch.float16 else WIDE:
        out = function(normal(5, 8).to(x), weight, impl=impl)
        (grad,) = torch.autograd.grad(out.float().sum(), weight)
        assert (out.dtype, grad.dtype) == (x, torch.float32)


@pytest.mark.parametrize("impl", IMPLS)
def test_nan_and_infinity_show_where_they_are(impl: str) -> None:
    x = normal(4, 6, dtype=torch.float32)
    x[1, 2], x[3, 0] = torch.nan, torch.inf
    out = polynorm(x, torch.ones(3), impl=impl)
    assert out.isnan().any(-1).tolist() == [False, True, False, True]
    assert out[1].isnan().all()
    assert out[3].isnan().nonzero().flatten().tolist() == [0]
    relu = polyrelu(x, torch.ones(4), impl=impl)
    assert relu.isnan().nonzero().tolist() == [[1, 2]]
    assert relu[3, 0] == torch.inf


def measure(function, impl: str, N: int, *coefficients: int) -> Allocations:
    leaves = [torch.ones(N, 1024, requires_grad=True), *(torch.ones(n, requires_grad=True) for n in coefficients)]
    with Allocations() as allocations:
        torch.autograd.grad(function(*leaves, impl=impl), leaves, leaves[0].detach())
    return allocations


@pytest.mark.parametrize(("function", "coefficients"), [(polynorm, (3, 1)), (polyrelu, (4,))])
def test_no_power_of_x_is_ever_whole(function, coefficients, monkeypatch: pytest.MonkeyPatch) -> None:
    """x, the output and the gradient are the only tensors of that size; the rest is blocks and row sums."""
    monkeypatch.setattr(blocks, "ELEMENTS", 1 << 14)
    tensor, block = 512 * 1024 * 4, (1 << 14) * 4
    assert measure(function, "blockwise", 512, *coefficients).peak < 3 * tensor + 6 * block
    assert measure(function, "reference", 512, *coefficients).peak > 5 * tensor


def test_saved_for_the_backward_pass_is_x_and_three_numbers_a_row() -> None:
    x, weight, bias = normal(50, 20).requires_grad_(), normal(3).requires_grad_(), normal(1).requires_grad_()
    shapes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: shapes.append(tuple(saved.shape)) or saved, lambda s: s
    ):
        blockwise.polynorm(x, weight, bias, 1e-6)
    assert sorted(shapes) == [(3,), (50, 3), (50, 20)]


def test_agrees_with_what_it_is_timed_against() -> None:
    for contest in contests("cpu", quick=True, op="polynorm"):
        assert len(hold(contest, rounds=1)) == 1 + len(contest.baselines)


REFUSED = {
    "not_a_tensor": ({"x": [1.0]}, ("x [... D] as a tensor", "list", "torch.as_tensor")),
    "scalar": ({"x": torch.tensor(1.0)}, ("at least one dimension", "x.reshape(1)")),
    "sparse": ({"x": torch.eye(3).to_sparse()}, ("dense", "x.to_dense()")),
    "empty_batch": ({"x": torch.ones(0, 4)}, ("no dimension of 0", "(0, 4)", "skip empty input")),
    "no_channel": ({"x": torch.ones(2, 0)}, ("no dimension of 0", "(2, 0)")),
    "integers": ({"x": torch.ones(2, 4, dtype=torch.int64)}, ("float32", "torch.int64", "x.float()")),
    "complex": ({"x": torch.ones(2, 4, dtype=torch.complex64)}, ("torch.complex64",)),
    "weight_not_a_tensor": ({"weight": (1.0, 1.0, 1.0)}, ("weight [3] as a tensor", "tuple")),
    "weight_of_another_order": ({"weight": torch.ones(4)}, ("weight [3]", "(4,)", "the order is 3")),
    "weight_rank": ({"weight": torch.ones(1, 3)}, ("weight [3]", "(1, 3)")),
    "weight_integers": (
        {"weight": torch.ones(3, dtype=torch.int64)},
        ("weight in torch.float32", "weight.to(x.dtype)"),
    ),
    "weight_dtype": ({"weight": torch.ones(3).double()}, ("weight in torch.float32", "torch.float64")),
    "weight_half": ({"weight": torch.ones(3).half()}, ("weight in torch.float32", "torch.float16")),
    "weight_device": ({"weight": torch.ones(3, device="meta")}, ("x's device cpu", "meta", "weight.to(x.device)")),
    "bias_number": ({"bias": 1.0}, ("bias [1] as a tensor", "float")),
    "bias_scalar": ({"bias": torch.tensor(1.0)}, ("bias [1]", "()", "bias.reshape(1)")),
    "bias_for_each_channel": ({"bias": torch.ones(4)}, ("bias [1]", "(4,)", "one number")),
    "bias_dtype": ({"bias": torch.ones(1).double()}, ("bias in torch.float32",)),
    "bias_device": ({"bias": torch.ones(1, device="meta")}, ("bias on x's device",)),
    "eps_zero": ({"eps": 0.0}, ("eps >= 1e-24", "0.0", "eps=1e-6")),
    "eps_negative": ({"eps": -1e-6}, ("eps >= 1e-24",)),
    "eps_infinite": ({"eps": math.inf}, ("finite eps", "inf")),
    "eps_nan": ({"eps": math.nan}, ("finite eps", "nan")),
    "eps_none": ({"eps": None}, ("eps as a number", "NoneType")),
    "eps_bool": ({"eps": True}, ("eps as a number", "bool")),
    "impl": ({"impl": "naive"}, ("'reference', 'blockwise', 'fused'", "'naive'", "impl='auto'")),
}


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", REFUSED)
def test_polynorm_refuses_and_says_what_to_do(name: str) -> None:
    change, words = REFUSED[name]
    with pytest.raises(Refusal) as refused:
        polynorm(**{"x": torch.ones(2, 4), "weight": torch.ones(3)} | change)
    assert str(refused.value).startswith("polynorm: wanted ")
    for word in words:
        assert word in str(refused.value)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    "name",
    [
        name
        for name in REFUSED
        if name.split("_")[0] in ("not", "scalar", "sparse", "empty", "no", "integers", "complex", "impl")
    ],
)
def test_polyrelu_refuses_too(name: str) -> None:
    change, words = REFUSED[name]
    with pytest.raises(Refusal) as refused:
        polyrelu(**{"x": torch.ones(2, 4), "weight": torch.ones(4)} | change)
    assert str(refused.value).startswith("polyrelu: wanted ")
    for word in words:
        assert word in str(refused.value)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (torch.ones(3), ("weight [4]", "(3,)", "a_0 first; the order is 3")),
        (torch.ones(4).double(), ("weight in torch.float32", "torch.float64")),
        (torch.ones(4, device="meta"), ("x's device cpu", "weight.to(x.device)")),
        ([1.0] * 4, ("weight [4] as a tensor", "list")),
    ],
)
def test_polyrelu_refuses_coefficients(weight, words: tuple[str, ...]) -> None:
    with pytest.raises(Refusal) as refused:
        polyrelu(torch.ones(2, 4), weight)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.usefixtures("as_a_user")
def test_a_thousand_random_calls_are_computed_or_refused() -> None:
    generator = random.Random(0)

    def choose(usual: list, odd: list):
        return generator.choice(usual if generator.random() < 0.9 else odd)

    computed = 0
    for seed in range(1000):
        function, n = generator.choice([(polynorm, 3), (polyrelu, 4)])
        shape = choose([(4,), (3, 4), (2, 3, 4), (1, 1)], [(0, 4), (3, 0), ()])
        dtype = choose([torch.float32, torch.float16, torch.bfloat16, torch.float64], [torch.int32, torch.bool])
        size = generator.choice([0.0, 1e-12, 1e-3, 1.0, 1e4, 1e9])
        x = torch.as_tensor(size * np.random.default_rng(seed).normal(size=shape)).clamp(-6e4, 6e4).to(dtype)
        weight = choose([torch.ones(n, dtype=dtype)], [torch.ones(n), torch.ones(n + 1, dtype=dtype), None, [1.0]])
        options = {"impl": choose(["auto", "reference", "blockwise", "fused"], ["naive", 3])}
        if function is polynorm:
            options["bias"] = choose([None, torch.ones(1, dtype=dtype)], [torch.ones(2), 0.5])
            options["eps"] = choose([1e-6, 1.0, 1e-24, 1e300], [0, "1", math.nan])
        try:
            out = function(x.requires_grad_(dtype.is_floating_point), weight, **options)
        except Refusal:
            continue
        computed += 1
        assert out.shape == x.shape
        assert not out.isnan().any()
        if options["impl"] != "reference":
            (grad,) = torch.autograd.grad(out.double().sum(), x)
            assert not grad.isnan().any()
    assert 400 < computed < 900
