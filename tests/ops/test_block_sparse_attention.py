"""Block-sparse attention against oracles that share no code with it."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import gatescope_kernels.ops.block_sparse_attention as op_folder
import pytest
import torch
from gatescope_kernels import (
    block_max_attention,
    block_sparse_attention,
    block_sparse_attention_with_lse,
    threshold_blocks,
    top_blocks,
)
from gatescope_kernels.allocations import Allocations
from gatescope_kernels.bench import contests, hold
from gatescope_kernels.ops._table import OPS
from gatescope_kernels.ops.block_sparse_attention import block_max, plan
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

#: In every dtype, on every device.
IMPLS = ("reference", "blockwise")
#: And the kernels, where they are interpreted; on a GPU their own tests and the op table prove them.
FUSED = () if torch.cuda.is_available() else (("fused", torch.float32),)
EVERY = pytest.mark.parametrize(("impl", "dtype"), [*((impl, torch.float64) for impl in IMPLS), *FUSED])


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def qkv(
    B: int, H: int, G: int, T: int, S: int, K: int, V: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = (B, H, T, K), (B, G, S, K), (B, G, S, V)
    q, k, v = (normal(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate(shapes, 1))
    return q, k, v


def random_mask(B: int, M: int, T: int, S: int, block: int, share: float = 0.5) -> Tensor:
    blocks = (-(-T // block), -(-S // block))
    return torch.rand(B, M, *blocks, generator=torch.Generator().manual_seed(4)) < share


def token_mask(mask: Tensor, H: int, T: int, S: int, block: int, causal: bool) -> Tensor:
    """The rule in words: one query, one key."""
    B, M = mask.shape[:2]
    flags = mask.tolist()

    def sees(b: int, h: int, i: int, j: int) -> bool:
        return flags[b][h * M // H][i // block][j // block] and (not causal or j <= i + S - T)

    return torch.tensor(
        [[[[sees(b, h, i, j) for j in range(S)] for i in range(T)] for h in range(H)] for b in range(B)]
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("M", [4, 2])
@pytest.mark.parametrize(("T", "S"), [(12, 12), (5, 14), (14, 6), (1, 9), (13, 13)])
def test_equals_torch_with_an_explicit_mask(impl: str, causal: bool, M: int, T: int, S: int) -> None:
    q, k, v = qkv(2, 4, 2, T, S, 8, 6)
    mask = random_mask(2, M, T, S, 4)
    tokens = token_mask(mask, 4, T, S, 4, causal)
    empty = ~tokens.any(-1)
    wanted = scaled_dot_product_attention(q, k, v, attn_mask=tokens | empty[..., None], enable_gqa=True)
    wanted = wanted.masked_fill(empty[..., None], 0.0)
    keys = k.repeat_interleave(2, 1)
    wanted_lse = (q @ keys.mT / math.sqrt(8)).masked_fill(~tokens, -math.inf).logsumexp(-1)
    out, lse = block_sparse_attention_with_lse(q, k, v, mask, causal=causal, block=4, impl=impl)
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(lse, wanted_lse)
    torch.testing.assert_close(block_sparse_attention(q, k, v, mask, causal=causal, block=4, impl=impl), wanted)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    T=st.integers(1, 60),
    S=st.integers(1, 60),
    G=st.integers(1, 3),
    R=st.integers(1, 3),
    K=st.integers(1, 9),
    V=st.integers(1, 9),
    block=st.integers(1, 24),
    causal=st.booleans(),
    per_group=st.booleans(),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_any_shape_matches_the_reference(T, S, G, R, K, V, block, causal, per_group, share) -> None:
    q, k, v = (x.requires_grad_() for x in qkv(2, G * R, G, T, S, K, V))
    mask = random_mask(2, G if per_group else G * R, T, S, block, share)
    d_out, d_lse = normal(2, G * R, T, V, seed=5), normal(2, G * R, T, seed=6)
    results = []
    for impl in IMPLS:
        out, lse = block_sparse_attention_with_lse(q, k, v, mask, causal=causal, block=block, impl=impl)
        loss = (out * d_out).sum() + (lse.masked_fill(lse == -torch.inf, 0.0) * d_lse).sum()
        largest = block_max_attention(q, k, causal=causal, block=block, impl=impl)
        results.append((out, lse, largest, *torch.autograd.grad(loss, (q, k, v))))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("T", "S"), [(12, 12), (5, 14), (14, 6), (13, 13)])
@pytest.mark.parametrize("causal", [True, False])
def test_block_maximum_is_that_of_the_matrix(impl: str, T: int, S: int, causal: bool) -> None:
    q, k, _ = qkv(1, 2, 1, T, S, 8, 8)
    everything = torch.ones(1, 2, -(-T // 4), -(-S // 4), dtype=torch.bool)
    tokens = token_mask(everything, 2, T, S, 4, causal)
    a = (3 * q @ k.mT).masked_fill(~tokens, -math.inf).softmax(-1).nan_to_num(0.0)
    wanted = torch.zeros(1, 2, -(-T // 4), -(-S // 4), dtype=torch.float64)
    for row in range(wanted.shape[2]):
        for column in range(wanted.shape[3]):
            tile = a[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            wanted[:, :, row, column] = tile.flatten(2).max(-1).values
    options = {"causal": causal, "block": 4, "scale": 3.0, "impl": impl}
    got = block_max_attention(q, k, **options)
    torch.testing.assert_close(got, wanted)
    target = block_max_attention(q, k, normalise=True, **options)
    total = wanted.sum(-1, keepdim=True)
    torch.testing.assert_close(target, torch.where(total > 0, wanted / total, 0.0))


@EVERY
def test_block_maximum_is_a_target(impl: str, dtype: torch.dtype) -> None:
    q, k, _ = (x.requires_grad_() for x in qkv(1, 2, 1, 12, 12, 8, 8, dtype))
    target = block_max_attention(q, k, block=4, normalise=True, impl=impl)
    assert not target.requires_grad
    torch.testing.assert_close(target.sum(-1), torch.ones(1, 2, 3, dtype=dtype))


@pytest.mark.parametrize("M", [2, 1])
@pytest.mark.parametrize(("T", "S", "causal"), [(5, 5, True), (4, 7, True), (5, 3, True), (3, 5, False)])
def test_gradcheck(M: int, T: int, S: int, causal: bool) -> None:
    leaves = [x.requires_grad_() for x in qkv(1, 2, 1, T, S, 3, 2)]
    mask = random_mask(1, M, T, S, 2, 0.6)

    def results(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = block_sparse_attention_with_lse(q, k, v, mask, block=2, causal=causal)
        return out, lse.masked_fill(lse == -torch.inf, 0.0)

    assert torch.autograd.gradcheck(results, leaves)


@EVERY
def test_gradient_of_the_lse_alone_and_of_a_plain_sum(impl: str, dtype: torch.dtype) -> None:
    q, k, v = (x.requires_grad_() for x in qkv(1, 2, 2, 9, 9, 4, 4, dtype))
    tokens = torch.ones(9, 9, dtype=torch.bool).tril()
    everything = torch.ones(1, 2, 3, 3, dtype=torch.bool)
    out, lse = block_sparse_attention_with_lse(q, k, v, everything, block=4, impl=impl)
    wanted = (q @ k.mT / 2).masked_fill(~tokens, -math.inf).logsumexp(-1).sum()
    torch.testing.assert_close(
        torch.autograd.grad(lse.sum(), (q, k), retain_graph=True), torch.autograd.grad(wanted, (q, k))
    )
    dense = scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), (q, k, v)), torch.autograd.grad(dense.sum(), (q, k, v)))


@EVERY
def test_halves_of_a_mask_combine_by_their_lse(impl: str, dtype: torch.dtype) -> None:
    q, k, v = qkv(1, 2, 2, 30, 30, 8, 8, dtype)
    half = random_mask(1, 2, 30, 30, 8)
    (out, lse), (other, other_lse) = (
        block_sparse_attention_with_lse(q, k, v, mask, block=8, impl=impl) for mask in (half, ~half)
    )
    total = torch.logaddexp(lse, other_lse)
    merged = out * (lse - total).exp()[..., None] + other * (other_lse - total).exp()[..., None]
    torch.testing.assert_close(merged, scaled_dot_product_attention(q, k, v, is_causal=True))


@EVERY
def test_rows_that_read_nothing(impl: str, dtype: torch.dtype) -> None:
    """Blocks off, blocks on but in the future, and rows before the key block's first key."""
    q, k, v = (x.requires_grad_() for x in qkv(1, 3, 3, 6, 7, 4, 4, dtype))  # query i stands at i + 1
    mask = torch.zeros(1, 3, 3, 4, dtype=torch.bool)
    mask[:, 1, 0, 3] = True  # queries 0, 1 and keys 6: never
    mask[:, 2, 1, 2] = True  # queries 2, 3 at positions 3, 4 and keys 4, 5: query 3 reads key 4
    out, lse = block_sparse_attention_with_lse(q, k, v, mask, block=2, impl=impl)
    reads = torch.zeros(1, 3, 6, dtype=torch.bool)
    reads[0, 2, 3] = True
    assert torch.equal(lse > -torch.inf, reads)
    torch.testing.assert_close(out, torch.where(reads[..., None], v[:, :, 4:5], 0.0))
    grads = torch.autograd.grad(out.sum() + lse[0, 2, 3], (q, k, v))
    assert all(grad.isfinite().all() for grad in grads)
    assert grads[2][0, 2, 4].eq(1).all()


@EVERY
@pytest.mark.parametrize("place", ["query", "key", "value"])
def test_nan_is_seen_in_every_row_that_reads_it(impl: str, dtype: torch.dtype, place: str) -> None:
    q, k, v = qkv(1, 1, 1, 12, 12, 4, 4, dtype)
    {"query": q, "key": k, "value": v}[place][0, 0, 5, 0] = torch.nan
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    mask[..., 2, 1] = False  # queries 8 to 11 do not read keys 4 to 7
    out, lse = block_sparse_attention_with_lse(q, k, v, mask, block=4, impl=impl)
    rows = [5] if place == "query" else [5, 6, 7]
    is_nan = out[0, 0].isnan().any(-1)
    assert is_nan[rows].all()
    if (impl, place) != ("reference", "value"):  # there it meets the zeros of the whole matrix
        assert not is_nan[[0, 1, 2, 3, 8, 9, 10, 11]].any()
    if place != "value":
        assert lse[0, 0, rows].isnan().all()
        largest = block_max_attention(q, k, block=4, impl=impl)[0, 0]
        seen = [(1, 0), (1, 1)] if place == "query" else [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
        assert sorted(map(tuple, largest.isnan().nonzero().tolist())) == seen
    if place == "query":
        assert is_nan.nonzero().flatten().tolist() == rows


def test_top_blocks_keeps_the_highest_visible_ones() -> None:
    scores = torch.tensor([[9.0, 9, 9, 9], [1, 0, 9, 9], [0, 3, 1, 9], [0, 5, 7, 1]])
    assert top_blocks(scores, keep=3).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 1, 1]]
    assert torch.equal(top_blocks(scores, keep=1), top_blocks(scores, keep=2))
    assert torch.equal(top_blocks(scores, share=1.0), torch.ones(4, 4, dtype=torch.bool).tril())
    assert top_blocks(scores, share=0.75)[3].tolist() == [True, False, True, True]
    assert top_blocks(scores, keep=2, causal=False)[0].tolist() == [True, True, False, False]


def test_thresholds_keep_what_is_above() -> None:
    scores = torch.tensor([[9.0, 9, 9, 9], [1, 0, 9, 9], [0, 3, 1, 9], [0, 5, 7, 1]])
    assert threshold_blocks(scores, 5.0).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]
    assert torch.equal(threshold_blocks(scores, -1.0), top_blocks(scores, share=1.0))


def test_a_score_of_minus_infinity_is_never_chosen() -> None:
    scores = torch.zeros(5, 5)
    scores[4, 1:3] = -torch.inf
    assert top_blocks(scores, keep=5)[4].tolist() == [True, False, False, True, True]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    T=st.integers(1, 40), S=st.integers(1, 40), block=st.integers(1, 9), keep=st.integers(1, 6), causal=st.booleans()
)
def test_rules_leave_no_query_without_its_own_and_the_first_block(T, S, block, keep, causal) -> None:
    scores = normal(2, -(-T // block), -(-S // block))
    mask = top_blocks(scores, keep=keep, causal=causal, lengths=(T, S), block=block)
    for i in range(T):
        position = i + S - T
        if position >= 0:
            assert mask[:, i // block, position // block].all()
            assert mask[:, i // block, 0].all()
    visible = top_blocks(scores, share=1.0, causal=causal, lengths=(T, S), block=block)
    assert not (mask & ~visible).any()
    own = top_blocks(scores, keep=1, causal=causal, lengths=(T, S), block=block)
    wanted = torch.minimum(visible.sum(-1), own.sum(-1).clamp(min=keep))
    assert torch.equal(mask.sum(-1), wanted)


def test_chunks_split_anywhere_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    op = OPS["block_sparse_attention"]
    for case in (case for case in op.cases if case.name in {"random_per_group", "more_queries_than_keys", "full"}):
        inputs = op.inputs(case, torch.float64, 0)
        with monkeypatch.context() as patched:
            whole = op.call("blockwise", inputs)
            patched.setitem(plan.ELEMENTS, "cpu", 1)
            patched.setattr(plan, "ROWS", 1)
            patched.setattr(block_max, "ELEMENTS", 1)
            split = op.call("blockwise", inputs)
        torch.testing.assert_close(split, whole)


@pytest.mark.parametrize(
    ("roots", "others"),
    [(("blockwise", "block_max"), {"reference", "fused"}), (("fused",), {"reference", "blockwise", "block_max"})],
)
def test_implementations_do_not_import_each_other(roots: tuple[str, ...], others: set[str]) -> None:
    folder = Path(op_folder.__file__).parent
    reached, todo = set(), list(roots)
    while todo:
        module = todo.pop()
        if module in reached:
            continue
        reached.add(module)
        for node in ast.walk(ast.parse((folder / f"{module}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(op_folder.__name__):
                tail = (node.module or "").removeprefix(op_folder.__name__).lstrip(".")
                todo += [tail] if tail else [alias.name for alias in node.names]
    assert "problem" in reached
    assert not reached & (others | {"api"})


def measure(T: int, impl: str, keep: int) -> Allocations:
    leaves = [torch.ones(1, 1, T, 16, requires_grad=True) for _ in range(3)]
    mask = top_blocks(torch.zeros(1, 1, T // 64, T // 64), keep=keep)
    with Allocations() as allocations:
        out, lse = block_sparse_attention_with_lse(*leaves, mask, impl=impl)
        torch.autograd.grad(out.sum() + lse.sum(), leaves)
        block_max_attention(leaves[0], leaves[1], normalise=True, impl=impl)
    return allocations


@pytest.mark.parametrize("keep", [4, 1000])
def test_blockwise_grows_linearly(keep: int) -> None:
    short, long = (measure(T, "blockwise", keep) for T in (2048, 4096))
    assert long.largest < 4096 * 4096 * 4 / 8
    assert long.largest <= 2.01 * short.largest
    assert long.peak <= 2.2 * short.peak


def test_the_measure_sees_a_matrix() -> None:
    assert measure(1024, "reference", 4).largest >= 1024 * 1024 * 4


def test_agrees_with_its_baselines() -> None:
    for each in contests("cpu", quick=True, op="block_sparse_attention"):
        assert len(hold(each, rounds=1)) == 1 + len(each.baselines)
