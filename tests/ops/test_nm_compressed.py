"""2:4 storage: byte by byte, through its inverse, and against torch's own conversion for sparse tensor cores."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from gatescope_kernels import Refusal, compress_2_4, decompress_2_4, nm_linear, nm_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import linear
from torch.sparse import SparseSemiStructuredTensorCUTLASS
from torch.sparse import _semi_structured_conversions as torch_conversions

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SPARSE_CORES = DEVICE == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability() >= (8, 0)


def pruned(F: int, D: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    weight = torch.randn(F, D, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)
    return weight * nm_mask(weight, 2, 4)


def test_bytes_by_hand() -> None:
    weight = torch.tensor([[5.0, 0, 0, 6, 0, 7, 8, 0], [0, 0, 0, 9, 0, 0, 0, 0]])
    values, metadata = compress_2_4(weight)
    assert values.tolist() == [[5, 6, 7, 8], [0, 9, 0, 0]]
    assert metadata.tolist() == [[0b10_01_11_00], [0b01_00_11_00]]
    assert metadata.dtype == torch.uint8
    odd_values, odd_metadata = compress_2_4(weight[:, :4])
    assert odd_values.tolist() == [[5, 6], [0, 9]]
    assert odd_metadata.tolist() == [[0b0000_11_00], [0b0000_11_00]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_valid_group_comes_back(dtype: torch.dtype) -> None:
    """All groups of four over {0, 1, -2, nan} with at most two non-zeros, alone and beside a second group."""
    groups = [group for group in product([0.0, 1.0, -2.0, float("nan")], repeat=4) if sum(v != 0 for v in group) <= 2]
    assert len(groups) == 1 + 4 * 3 + 6 * 9
    weight = torch.tensor(groups, dtype=dtype, device=DEVICE)
    for each in (weight, torch.cat([weight, weight.flip(0)], 1), weight.mT.contiguous().mT):
        values, metadata = compress_2_4(each)
        assert values.dtype == dtype
        torch.testing.assert_close(decompress_2_4(values, metadata), each, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(F=st.integers(1, 40), groups=st.integers(1, 40), keep=st.floats(0, 1), seed=st.integers(0, 99))
def test_round_trip(F: int, groups: int, keep: float, seed: int) -> None:
    weight = pruned(F, 4 * groups, seed=seed)
    weight = weight * (torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)) < keep).to(DEVICE)
    values, metadata = compress_2_4(weight)
    assert values.shape == (F, 2 * groups)
    assert metadata.shape == (F, (groups + 1) // 2)
    assert torch.equal(decompress_2_4(values, metadata), weight)


def test_gradients_go_where_the_values_stood() -> None:
    weight = pruned(6, 12).double().requires_grad_()
    values, metadata = compress_2_4(weight)
    (grad,) = torch.autograd.grad((3 * decompress_2_4(values, metadata)).sum(), weight)
    assert torch.equal(grad, 3.0 * (weight != 0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("F", "D"), [(32, 32), (64, 64), (96, 160)])
def test_words_are_those_of_torch(dtype: torch.dtype, F: int, D: int) -> None:
    """torch's conversion, its CUTLASS interleaving undone, and our words interleaved for torch's inverse.

    The interleaving swaps 2 x 2 blocks of words, so it needs an even number of them: D a multiple of 32.
    """
    weight = pruned(F, D, dtype, seed=F)
    weight[weight == 0] = 0.0  # a product with a mask leaves -0
    assert ((weight != 0).view(-1, 4).sum(-1) == 2).all(), "where values are zero, which ones are stored is a choice"
    values, metadata = compress_2_4(weight)
    their_values, their_words = torch_conversions.sparse_semi_structured_from_dense_cutlass(weight)
    words = metadata.view(torch.int16)
    order = torch_conversions._calculate_meta_reordering_scatter_offsets(F, words.shape[1], torch.int16, words.device)
    assert torch.equal(values, their_values)
    assert torch.equal(words, their_words.view(-1)[order].view_as(words))
    interleaved = torch.empty_like(words).view(-1).scatter(0, order, words.reshape(-1)).view_as(words)
    assert torch.equal(torch_conversions.sparse_semi_structured_to_dense_cutlass(values, interleaved), weight)


def test_torch_reads_groups_with_fewer_values() -> None:
    weight = pruned(32, 32, torch.float16) * (torch.arange(32, device=DEVICE) % 3 > 0)
    values, metadata = compress_2_4(weight)
    words = metadata.view(torch.int16)
    order = torch_conversions._calculate_meta_reordering_scatter_offsets(32, words.shape[1], torch.int16, words.device)
    interleaved = torch.empty_like(words).view(-1).scatter(0, order, words.reshape(-1)).view_as(words)
    assert torch.equal(torch_conversions.sparse_semi_structured_to_dense_cutlass(values, interleaved), weight)


@pytest.mark.parametrize("flipped", range(8))
def test_a_flipped_bit_is_refused_or_changes_the_weight(flipped: int) -> None:
    weight = pruned(1, 8)
    values, metadata = compress_2_4(weight)
    try:
        changed = decompress_2_4(values, metadata ^ (1 << flipped))
    except Refusal:
        return
    assert not torch.equal(changed, weight)


@pytest.mark.skipif(
    not SPARSE_CORES, reason="torch's semi-structured tensors take CUDA tensors alone, for sparse tensor cores"
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sparse_tensor_cores_multiply_what_is_stored(dtype: torch.dtype) -> None:
    """torch's class holds our values; with our words interleaved in place of its own, its product is ours."""
    weight, x = pruned(64, 128, dtype), torch.ones(32, 128, device=DEVICE, dtype=dtype)
    values, metadata = compress_2_4(weight)
    theirs = SparseSemiStructuredTensorCUTLASS.from_dense(weight)
    words = metadata.view(torch.int16)
    order = torch_conversions._calculate_meta_reordering_scatter_offsets(64, words.shape[1], torch.int16, words.device)
    interleaved = torch.empty_like(words).view(-1).scatter(0, order, words.reshape(-1)).view_as(words)
    assert torch.equal(theirs.packed, values)
    assert torch.equal(theirs.meta, interleaved)
    torch.testing.assert_close(linear(x, theirs), nm_linear(x, weight))
