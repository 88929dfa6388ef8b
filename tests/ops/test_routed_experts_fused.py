"""The fused routed experts: how rows are cut into tiles on the device, and what the whole table cannot show."""

from __future__ import annotations

import pytest
import torch
from gatescope_kernels import routed_experts
from gatescope_kernels.allocations import Allocations
from gatescope_kernels.ops._launch import Target, recording
from gatescope_kernels.ops.routed_experts.fused_tiles import tile
from gatescope_kernels.ops.routed_experts.row import ROW
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HOPPER = Target("sm_90", "cuda")


def problem(N: int, D: int, F: int, E: int, k: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(N + E)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(DEVICE, dtype)

    inputs = {"x": normal(N, D), "expert_weight": normal(N, k), "w_gate": normal(E, D, F) / D**0.5}
    inputs |= {"w_up": normal(E, D, F) / D**0.5, "w_down": normal(E, F, D) / F**0.5}
    index = torch.randint(E, (N, k), generator=generator)
    # Most assignments go to one expert, and experts of the first half to none.
    index = torch.where(torch.rand(N, k, generator=generator) < 0.6, E - 1, E // 2 + index // 2)
    return inputs | {"expert_index": index.clamp(max=E - 1).to(DEVICE)}


def results(inputs: dict[str, Tensor], impl: str, wanted: tuple[str, ...] = ROW.differentiable) -> list[Tensor]:
    leaves = {name: inputs[name].detach().requires_grad_() for name in wanted}
    out = routed_experts(**inputs | leaves, impl=impl)
    return [out.detach(), *torch.autograd.grad(out, list(leaves.values()), out.detach().clamp(-1, 1))]


def assert_close(got: list[Tensor], wanted: list[Tensor], error: float = 4e-6) -> None:
    for one, other in zip(got, wanted, strict=True):
        assert (one - other).abs().max() <= error * max(1.0, other.abs().max().item())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    N=st.integers(1, 60),
    E=st.integers(1, 300),
    k=st.integers(1, 4),
    rows=st.sampled_from((16, 32)),
    busy=st.integers(1, 300),
    seed=st.integers(0, 99),
)
def test_tiles_hold_every_row_once(N: int, E: int, k: int, rows: int, busy: int, seed: int) -> None:
    index = torch.randint(min(E, busy), (N, k), generator=torch.Generator().manual_seed(seed))
    tiles = tile(index, E, rows)
    expert_R = torch.empty(N * k, dtype=torch.int64)
    end = 0
    for expert, first, stop in tiles.table.tolist():
        if first < stop:
            assert first == end
            assert stop - first <= rows
            expert_R[first:stop] = expert
            end = stop
    assert end == N * k
    assert torch.equal(expert_R[tiles.row], index)
    assert torch.equal(tiles.token[tiles.row], torch.arange(N)[:, None].expand(N, k))
    assert torch.equal(tiles.end, torch.bincount(index.flatten(), minlength=E).cumsum(0))


def test_as_many_tiles_as_the_worst_load_needs() -> None:
    """Every expert one row, the last one all others: no table of static length could be shorter."""
    E, rows = 5, 16
    index = torch.cat([torch.arange(E), torch.full((rows,), E - 1)])[:, None]
    table = tile(index, E, rows).table
    assert len(table) == E + 1
    assert (table[:, 1] < table[:, 2]).all()


def test_tiles_are_made_without_reading_on_the_host() -> None:
    """Tensors without values have nothing to read."""
    with FakeTensorMode():
        assert tile(torch.empty(63, 2, dtype=torch.int64), 8, 32).table.shape == (8 + (126 - 8) // 32, 3)


def test_equals_blockwise_over_several_tiles_of_everything() -> None:
    inputs = problem(70, 70, 40, 3, 2)
    assert_close(results(inputs, "fused"), results(inputs, "blockwise"))


def test_two_runs_are_the_same_to_the_last_bit() -> None:
    inputs = problem(40, 16, 16, 3, 2, torch.float16)
    for one, other in zip(results(inputs, "fused"), results(inputs, "fused"), strict=True):
        assert torch.equal(one, other)


def test_thousands_of_experts_and_one_gradient_alone() -> None:
    inputs = problem(5, 7, 3, 3000, 2)
    for wanted in ("x", "expert_weight"):
        assert_close(results(inputs, "fused", (wanted,)), results(inputs, "blockwise", (wanted,)))


@pytest.mark.parametrize("sign", [-1, 1])
def test_pre_activations_far_from_zero(sign: int) -> None:
    """sigmoid(-200) is 0 and sigmoid(200) is 1, and neither overflows on the way."""
    inputs = problem(20, 16, 16, 3, 2)
    inputs["x"] = inputs["x"].abs() + 1
    inputs["w_gate"] = torch.full_like(inputs["w_gate"], sign * 200 / 16)
    got = results(inputs, "fused")
    assert all(x.isfinite().all() for x in got)
    assert_close(got, results(inputs, "blockwise"), error=1e-5)


def test_memory_does_not_grow_with_experts_and_is_linear_in_tokens() -> None:
    """Recorded, not run: the buffers are made all the same."""

    def measure(N: int, E: int) -> Allocations:
        inputs = {name: x.cpu() for name, x in problem(N, 64, 32, E, 2, torch.bfloat16).items()}
        with Allocations() as allocations, recording(HOPPER):
            results(inputs, "fused", ("x", "expert_weight"))
        return allocations

    few, many, long = measure(2048, 4), measure(2048, 64), measure(4096, 64)
    assert long.largest <= 4096 * 2 * 64 * 2
    assert many.peak <= 1.2 * few.peak
    assert long.peak <= 2.2 * many.peak
