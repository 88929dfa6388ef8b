"""Gated attention against oracles that share no code with it."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import gatescope_kernels.ops.gated_attention as op_folder
import pytest
import torch
from gatescope_kernels import STATISTICS, Visibility, gated_attention, gated_attention_with_stats
from gatescope_kernels.ops._table import GATED_ATTENTION
from gatescope_kernels.ops.gated_attention import strips
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

#: In float64, which the kernels do not know; they have their own tests.
IMPLS = [impl for impl in GATED_ATTENTION.implementations if impl != "fused"]
VISIBILITIES = {
    "causal": Visibility(),
    "full": Visibility(causal=False),
    "window": Visibility(window=3),
    "streaming": Visibility(window=3, sink_tokens=2),
    "two_sided": Visibility(causal=False, window=2, sink_tokens=1),
}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def qkv(B: int, H: int, G: int, T: int, S: int, K: int, V: int) -> tuple[Tensor, Tensor, Tensor]:
    return normal(B, H, T, K, seed=1), normal(B, G, S, K, seed=2), normal(B, G, S, V, seed=3)


def sees(rule: Visibility, i: int, j: int, T: int, S: int) -> bool:
    """Visibility in words: one query, one key."""
    distance = i + S - T - j
    if rule.causal and distance < 0:
        return False
    return rule.window is None or abs(distance) < rule.window or j < rule.sink_tokens


def explicit_mask(rule: Visibility, T: int, S: int) -> Tensor:
    return torch.tensor([[sees(rule, i, j, T, S) for j in range(S)] for i in range(T)])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("rule", VISIBILITIES.values(), ids=VISIBILITIES)
@pytest.mark.parametrize(("T", "S"), [(9, 9), (4, 11), (1, 7), (70, 70)])
def test_equals_torch_with_an_explicit_mask(impl: str, rule: Visibility, T: int, S: int) -> None:
    q, k, v = qkv(2, 4, 2, T, S, 8, 8)
    mask = explicit_mask(rule, T, S)
    wanted = scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    out, stats = gated_attention_with_stats(q, k, v, visibility=rule, impl=impl)
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(gated_attention(q, k, v, visibility=rule, impl=impl), wanted)
    assert torch.equal(stats.visible, mask.sum(-1).expand(2, -1))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    T=st.integers(1, 70),
    S=st.integers(1, 70),
    G=st.integers(1, 3),
    R=st.integers(1, 3),
    K=st.integers(1, 9),
    V=st.integers(1, 9),
    causal=st.booleans(),
    window=st.none() | st.integers(1, 80),
    sink_tokens=st.integers(0, 75),
    sink=st.none() | st.floats(-3, 3),
    padding=st.booleans(),
)
def test_any_shape_matches_the_reference(T, S, G, R, K, V, causal, window, sink_tokens, sink, padding) -> None:
    rule = Visibility(causal=causal, window=window, sink_tokens=sink_tokens)
    q, k, v = qkv(2, G * R, G, T, S, K, V)
    key_mask = normal(2, S, seed=4) > 0 if padding else None
    options = {"visibility": rule, "sink": sink, "key_mask": key_mask, "keys": (0, S - 1)}
    wanted, wanted_stats = gated_attention_with_stats(q, k, v, impl="reference", **options)
    got, got_stats = gated_attention_with_stats(q, k, v, impl="blockwise", **options)
    torch.testing.assert_close(got, wanted)
    mask = explicit_mask(rule, T, S) & (True if key_mask is None else key_mask[:, None])
    assert torch.equal(got_stats.visible, mask.sum(-1).expand(2, -1))
    for name in ("lse", *STATISTICS, "sink_mass"):
        torch.testing.assert_close(getattr(got_stats, name), getattr(wanted_stats, name), msg=name)


@pytest.mark.parametrize("impl", IMPLS)
def test_identities(impl: str) -> None:
    """H = L - scale <q, P K>; key mass = dV of ones in one channel; mass = P at a key; L and max from the scores."""
    q, k, v = qkv(1, 3, 3, 20, 20, 8, 8)
    v.requires_grad_()
    _, stats = gated_attention_with_stats(q, k, v, keys=(0, 7), impl=impl)
    pk = scaled_dot_product_attention(q, k, k, is_causal=True)
    torch.testing.assert_close(stats.entropy, stats.lse - (q * pk).sum(-1) / math.sqrt(8))
    (dv,) = torch.autograd.grad(scaled_dot_product_attention(q, k, v, is_causal=True)[..., 0].sum(), v)
    torch.testing.assert_close(stats.key_mass, dv[..., 0])
    one_hot = torch.eye(20, dtype=torch.float64)[[0, 7]].T.expand(1, 3, -1, -1)
    torch.testing.assert_close(stats.mass, scaled_dot_product_attention(q, k, one_hot, is_causal=True))
    scores = (q @ k.mT / math.sqrt(8)).masked_fill(~explicit_mask(Visibility(), 20, 20), -math.inf)
    torch.testing.assert_close(stats.max_logit, scores.amax(-1))
    torch.testing.assert_close(stats.lse, scores.logsumexp(-1))


@pytest.mark.parametrize("impl", IMPLS)
def test_off_by_one_is_its_closed_form(impl: str) -> None:
    """exp(s) / (1 + sum exp(s)), the one of the denominator being the outcome that reads nothing."""
    q, k, v = qkv(1, 2, 2, 6, 6, 4, 4)
    weights = (q @ k.mT / 2).exp().masked_fill(~explicit_mask(Visibility(), 6, 6), 0.0)
    a = weights / (1 + weights.sum(-1, keepdim=True))
    rest = 1 - a.sum(-1)
    out, stats = gated_attention_with_stats(q, k, v, sink=0.0, impl=impl)
    torch.testing.assert_close(out, a @ v)
    torch.testing.assert_close(stats.sink_mass, rest)
    torch.testing.assert_close(stats.entropy, torch.special.entr(a).sum(-1) + torch.special.entr(rest))
    torch.testing.assert_close(stats.key_mass, a.sum(-2))


@pytest.mark.parametrize("impl", IMPLS)
def test_uniform_attention_has_the_closed_form_statistics(impl: str) -> None:
    q, k, v = torch.zeros(1, 1, 64, 4), torch.zeros(1, 1, 64, 4), torch.ones(1, 1, 64, 4)
    _, stats = gated_attention_with_stats(q, k, v, impl=impl)
    n = torch.arange(1.0, 65.0)
    torch.testing.assert_close(stats.entropy[0, 0], n.log())
    torch.testing.assert_close(stats.mass[0, 0, :, 0], 1 / n)
    assert stats.mass.mean().item() == pytest.approx(0.0741, abs=1e-4)  # the harmonic number H_64 / 64
    torch.testing.assert_close(stats.key_mass[0, 0], (1 / n).flip(0).cumsum(0).flip(0))


@pytest.mark.parametrize(
    "options",
    [
        {"sink": "learned"},
        {"visibility": VISIBILITIES["streaming"], "sink": "learned"},
        {"visibility": VISIBILITIES["two_sided"], "key_mask": torch.tensor([[True, False, True, True, False]] * 2)},
        {"key_mask": torch.tensor([[False] * 5, [True] * 5]), "sink": "learned"},
    ],
    ids=["causal_sink", "streaming_sink", "two_sided_padding", "all_padding_sink"],
)
def test_gradcheck(options: dict) -> None:
    q, k, v = (x.requires_grad_() for x in qkv(2, 2, 1, 4, 5, 3, 2))
    gate = torch.sigmoid(normal(2, 2, 4, 2, seed=5)).requires_grad_()
    leaves = [q, k, v, gate]
    fixed = {name: value for name, value in options.items() if name != "sink"}
    if "sink" in options:
        leaves.append(normal(2, seed=6).requires_grad_())

    def results(q, k, v, gate, sink=None):
        out, stats = gated_attention_with_stats(q, k, v, gate=gate, sink=sink, keys=(0, 2), **fixed)
        found = [out, *(getattr(stats, name) for name in ("lse", *STATISTICS, "sink_mass"))]
        return tuple(x.masked_fill(x == -torch.inf, 0.0) for x in found if x is not None)

    assert torch.autograd.gradcheck(results, leaves)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_row_that_sees_nothing(impl: str) -> None:
    q, k, v = (x.requires_grad_() for x in qkv(1, 2, 2, 5, 3, 4, 4))  # rows 0 and 1 stand before the first key
    out, stats = gated_attention_with_stats(q, k, v, impl=impl)
    assert stats.visible[0].tolist() == [0, 0, 1, 2, 3]
    empty = slice(0, 2)
    for zero in (out[:, :, empty], stats.entropy[..., empty], stats.mass[:, :, empty]):
        assert not zero.any()
    for nothing in (stats.lse[..., empty], stats.max_logit[..., empty]):
        assert (nothing == -torch.inf).all()
    loss = out.sum() + stats.entropy.sum() + stats.mass.sum() + stats.key_mass.sum() + stats.lse[..., 2:].sum()
    for grad in torch.autograd.grad(loss, (q, k, v)):
        assert grad.isfinite().all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("stats", [(), STATISTICS])
@pytest.mark.parametrize("place", ["query", "key", "value"])
def test_nan_is_seen_in_every_row_that_reads_it(impl: str, stats: tuple[str, ...], place: str) -> None:
    q, k, v = qkv(1, 1, 1, 8, 8, 4, 4)
    {"query": q, "key": k, "value": v}[place][0, 0, 5, 0] = torch.nan
    out, found = gated_attention_with_stats(q, k, v, stats=stats, impl=impl)
    rows = [5] if place == "query" else [5, 6, 7]
    is_nan = out.isnan().any(-1)[0, 0]
    assert is_nan[rows].all()
    if place != "value":
        per_row = [found.lse, *([found.entropy, found.max_logit, found.mass[..., 0]] if stats else [])]
        for statistic in per_row:
            assert statistic.isnan()[0, 0].nonzero().flatten().tolist() == rows
    if place == "query":
        assert is_nan.nonzero().flatten().tolist() == rows


@pytest.mark.parametrize("impl", ["reference", "blockwise"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("T", [1, 2, 7, 8, 15, 16, 17])
def test_few_keys_do_not_lose_a_nan(impl: str, dtype: torch.dtype, T: int) -> None:
    """torch's CPU kernel gives 0 to a row of NaN where its keys do not fill a vector register."""
    q, k, v = (x.to(dtype) for x in qkv(1, 2, 2, T, T, 4, 4))
    q[0, 1, T // 2] = torch.nan
    out, stats = gated_attention_with_stats(q, k, v, stats=(), impl=impl)
    for found in (out.isnan().all(-1), stats.lse.isnan()):
        assert found.nonzero().tolist() == [[0, 1, T // 2]]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("scale", [0.0, -0.5])
def test_a_scale_that_is_not_positive(impl: str, scale: float) -> None:
    """Hidden scores stay hidden, whatever they are multiplied by."""
    q, k, v = (x.float() for x in qkv(1, 2, 2, 20, 20, 16, 16))
    wanted = scaled_dot_product_attention(q, k, v, attn_mask=explicit_mask(Visibility(), 20, 20), scale=scale)
    torch.testing.assert_close(gated_attention(q, k, v, scale=scale, impl=impl), wanted)


@pytest.mark.parametrize("stats", [(), STATISTICS])
def test_gradient_of_a_plain_sum(stats: tuple[str, ...]) -> None:
    """The upstream gradient of a sum is one element seen from everywhere (all strides 0)."""
    grads = []
    for impl in IMPLS:
        leaves = [x.requires_grad_() for x in qkv(2, 4, 2, 9, 9, 8, 8)]
        out, _ = gated_attention_with_stats(*leaves, stats=stats, sink=0.5, impl=impl)
        grads.append(torch.autograd.grad(out.sum(), leaves))
    torch.testing.assert_close(*grads)


def test_only_statistics_asked_for_are_made() -> None:
    q, k, v = qkv(1, 1, 1, 4, 4, 2, 2)
    for impl in IMPLS:
        _, stats = gated_attention_with_stats(q, k, v, stats=("entropy",), impl=impl)
        absent = (stats.max_logit, stats.mass, stats.key_mass, stats.sink_mass)
        assert stats.entropy is not None
        assert absent == (None,) * 4
        assert stats.keys == ()


def test_blockwise_does_not_import_the_reference() -> None:
    folder = Path(op_folder.__file__).parent
    reached, todo = set(), ["blockwise"]
    while todo:
        module = todo.pop()
        if module in reached:
            continue
        reached.add(module)
        for node in ast.walk(ast.parse((folder / f"{module}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(op_folder.__name__):
                tail = (node.module or "").removeprefix(op_folder.__name__).lstrip(".")
                todo += [tail] if tail else [alias.name for alias in node.names]
    assert {"forward", "backward", "strips"} <= reached
    assert not reached & {"reference", "api"}


@pytest.mark.parametrize("name", ["window_and_sink_tokens", "padding_sink", "one_key_head", "every_head_its_own_keys"])
def test_heads_split_over_strips_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long inputs do not fit all heads into one strip; a small limit brings that about on short ones."""
    case = next(case for case in GATED_ATTENTION.cases if case.name == name)
    results = []
    for elements in (1 << 20, 1):
        monkeypatch.setattr(strips, "ELEMENTS", elements)
        inputs = GATED_ATTENTION.inputs(case, torch.float64, 0)
        leaves = [inputs[key].requires_grad_() for key in ("q", "k", "v")]
        found = GATED_ATTENTION.call("blockwise", inputs)
        loss = sum(x.masked_fill(x == -torch.inf, 0.0).sum() for x in found.values())
        results.append([*found.values(), *torch.autograd.grad(loss, leaves)])
    for whole, split in zip(*results, strict=True):
        torch.testing.assert_close(split, whole)
