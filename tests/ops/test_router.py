"""The router against its definition, in cases where the textbook form is exact, and where it is not."""

from __future__ import annotations

import pytest
import torch
from gatescope_kernels import route
from hypothesis import given, settings
from hypothesis import strategies as st

KINDS = ("softmax", "sigmoid")


def logits(N: int, E: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(N, E, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    N=st.integers(1, 9),
    E=st.integers(1, 12),
    k=st.integers(1, 12),
    kind=st.sampled_from(KINDS),
    renormalise=st.booleans(),
    biased=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equals_its_definition(N: int, E: int, k: int, kind: str, renormalise: bool, biased: bool, seed: int) -> None:
    k, z = min(k, E), logits(N, E, seed)
    bias = logits(1, E, seed + 1)[0] if biased else None
    index, weight = route(z, k, kind=kind, renormalise=renormalise, bias=bias)
    score = z.softmax(-1) if kind == "softmax" else z.sigmoid()
    ranked = score if bias is None else score + bias
    for n in range(N):
        chosen = sorted(range(E), key=lambda e: -ranked[n, e].item())[:k]
        assert index[n].tolist() == chosen
        wanted = score[n, chosen]
        torch.testing.assert_close(weight[n], wanted / wanted.sum() if renormalise else wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("renormalise", [True, False])
def test_gradcheck(kind: str, renormalise: bool) -> None:
    z = logits(4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: route(z, 2, kind=kind, renormalise=renormalise)[1], z)


def test_bias_moves_the_selection_and_nothing_else() -> None:
    z, bias = logits(50, 4), torch.tensor([0.0, 0.0, 0.0, 9.0], dtype=torch.float64).requires_grad_()
    index, weight = route(z, 1, kind="sigmoid", renormalise=False, bias=bias)
    assert (index == 3).all()
    torch.testing.assert_close(weight[:, 0], z[:, 3].sigmoid())
    assert not weight.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_scores_that_underflow_still_divide(kind: str) -> None:
    z = torch.tensor([[-1000.0, -1001.0, -2000.0]])
    _, weight = route(z, 2, kind=kind)
    torch.testing.assert_close(weight, torch.tensor([[1.0, 0.0]]).softmax(-1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_keep_the_dtype(dtype: torch.dtype) -> None:
    index, weight = route(logits(6, 5).to(dtype), 3)
    assert (index.dtype, weight.dtype) == (torch.int64, dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_minus_infinity_keeps_an_expert_out(kind: str) -> None:
    z = logits(20, 5)
    z[:, 2] = -torch.inf
    index, weight = route(z, 4, kind=kind)
    assert not (index == 2).any()
    assert weight.isfinite().all()


def test_a_nan_shows_in_its_own_row() -> None:
    z = logits(4, 5)
    z[1, 3] = torch.nan
    _, weight = route(z, 2)
    assert weight.isnan().any(1).tolist() == [False, True, False, False]
