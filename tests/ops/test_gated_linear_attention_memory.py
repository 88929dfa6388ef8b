"""Memory of gated linear attention grows as the tokens do, and no tensor holds a state a token."""

from __future__ import annotations

import pytest
import torch
from gatescope_kernels import gated_linear_attention
from gatescope_kernels.allocations import Allocations

K = V = 32


def measure(T: int, impl: str, vector: bool, delta: bool) -> Allocations:
    shapes = {"q": (T, K), "k": (T, K), "v": (T, V), "g": (T, K) if vector else (T,)}
    shapes |= {"beta": (T,)} if delta else {}
    inputs = {name: torch.full((1, 1, *shape), -0.1, requires_grad=True) for name, shape in shapes.items()}
    with Allocations() as allocations:
        out, final = gated_linear_attention(**inputs, impl=impl)
        torch.autograd.grad(out.sum() + final.sum(), list(inputs.values()))
    return allocations


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("vector", [False, True])
def test_blockwise_grows_linearly(vector: bool, delta: bool) -> None:
    short, long = (measure(T, "blockwise", vector, delta) for T in (4096, 8192))
    assert long.largest <= 8192 * K * V * 4 / 8
    assert long.peak <= 2.05 * short.peak


def test_the_measure_sees_a_state_a_token() -> None:
    seen = measure(256, "reference", vector=True, delta=False)
    assert seen.peak > 256 * K * V * 4
