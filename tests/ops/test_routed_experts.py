"""Routed experts against oracles that share no code with them: transformers' Mixtral, a plain loop, autograd."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from gatescope_kernels import Refusal, route, routed_experts
from gatescope_kernels.allocations import Allocations
from gatescope_kernels.ops.routed_experts import layout as layouts
from gatescope_kernels.ops.routed_experts.bench import contests
from gatescope_kernels.ops.routed_experts.layout import permute
from gatescope_kernels.ops.routed_experts.row import ROW
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

#: Those that compute in float64; "fused" does not.
DOUBLE = tuple(impl for impl in ROW.implementations if impl != "fused")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(N: int, D: int, F: int, E: int, k: int, seed: int = 0, impl: str = "reference") -> dict[str, Tensor]:
    """Inputs in float64, or for "fused" in float32 where its kernels run."""
    index, weight = route(normal(N, E, seed=seed), k)
    sizes = {"w_gate": (E, D, F), "w_up": (E, D, F), "w_down": (E, F, D)}
    arrays = {name: normal(*size, seed=seed + 1 + i) for i, (name, size) in enumerate(sizes.items())}
    inputs = {"x": normal(N, D, seed=seed + 9), "expert_index": index, "expert_weight": weight} | arrays
    if impl == "fused":
        inputs = {name: array.float() if array.is_floating_point() else array for name, array in inputs.items()}
        inputs = {name: array.to(DEVICE) for name, array in inputs.items()}
    return inputs


def by_hand(x: Tensor, expert_index: Tensor, expert_weight: Tensor, w_gate: Tensor, w_up: Tensor, w_down: Tensor):
    """One token, one expert at a time."""
    out = torch.zeros_like(x)
    for n in range(len(x)):
        for e, weight in zip(expert_index[n].tolist(), expert_weight[n], strict=True):
            gate = x[n] @ w_gate[e]
            out[n] += weight * ((gate / (1 + torch.exp(-gate)) * (x[n] @ w_up[e])) @ w_down[e])
    return out


@pytest.mark.parametrize("impl", DOUBLE)
@pytest.mark.parametrize("E", [4, 16])
def test_equals_the_mixtral_block(impl: str, E: int, require: Callable[..., None]) -> None:
    """The whole block, its router too: values and every gradient."""
    require("transformers")
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    D, F, k = 12, 20, 2
    config = MixtralConfig(hidden_size=D, intermediate_size=F, num_local_experts=E, num_experts_per_tok=k)
    config._experts_implementation = "eager"
    block = MixtralSparseMoeBlock(config).double()
    with torch.no_grad():
        for i, parameter in enumerate(block.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=i) / 3)
    x = normal(50, D).requires_grad_()
    wanted = block(x[None])[0]
    upstream = normal(50, D, seed=7)
    dx, drouter, dgate_up, ddown = torch.autograd.grad(
        wanted, [x, block.gate.weight, block.experts.gate_up_proj, block.experts.down_proj], upstream
    )
    w_gate, w_up = (w.detach().mT.requires_grad_() for w in block.experts.gate_up_proj.chunk(2, dim=1))
    w_down = block.experts.down_proj.detach().mT.requires_grad_()
    router = block.gate.weight.detach().requires_grad_()
    out = routed_experts(x, *route(x @ router.T, k), w_gate, w_up, w_down, impl=impl)
    grads = torch.autograd.grad(out, [x, router, w_gate, w_up, w_down], upstream)
    # Mixtral's router works in float32 whatever its input.
    near = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(out, wanted, **near)
    for got, right in zip(grads, [dx, drouter, *(d.mT for d in dgate_up.chunk(2, dim=1)), ddown.mT], strict=True):
        torch.testing.assert_close(got, right, **near)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    N=st.integers(1, 20),
    D=st.integers(1, 9),
    F=st.integers(1, 9),
    E=st.integers(1, 12),
    k=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_equals_a_loop_over_tokens(N: int, D: int, F: int, E: int, k: int, seed: int) -> None:
    inputs = problem(N, D, F, E, min(k, E), seed)
    wanted = by_hand(**inputs)
    for impl in DOUBLE:
        torch.testing.assert_close(routed_experts(**inputs, impl=impl), wanted)


@pytest.mark.parametrize("impl", DOUBLE)
def test_gradcheck(impl: str) -> None:
    inputs = problem(5, 3, 2, 4, 2)
    leaves = [inputs[name].requires_grad_() for name in ROW.differentiable]

    def run(*values: Tensor) -> Tensor:
        return routed_experts(**(inputs | dict(zip(ROW.differentiable, values, strict=True))), impl=impl)

    assert torch.autograd.gradcheck(run, leaves)


@pytest.mark.parametrize("wanted", ROW.differentiable)
def test_one_gradient_alone(wanted: str) -> None:
    grads = []
    for impl in DOUBLE:
        inputs = problem(9, 4, 3, 5, 2)
        grads += torch.autograd.grad(
            routed_experts(**inputs | {wanted: inputs[wanted].requires_grad_()}, impl=impl).sum(), inputs[wanted]
        )
    torch.testing.assert_close(*grads)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(N=st.integers(1, 60), E=st.integers(1, 30), k=st.integers(1, 4), seed=st.integers(0, 99), shared=st.booleans())
def test_layout_holds_every_assignment_once(N: int, E: int, k: int, seed: int, shared: bool) -> None:
    """Rows tile the strips, each row's run names its expert, and what is not an assignment is padding."""
    index = torch.randint(E, (N, k), generator=torch.Generator().manual_seed(seed))
    layout = permute(index, E, 8, 8 if shared else layouts.SHARED_WORK)
    R = len(layout.token)
    expert_of, padding = torch.full((R,), -1), torch.zeros(R, dtype=torch.bool)
    end = 0
    for strip in layout.strips:
        assert strip.start == end
        end = strip.stop
        for run in strip.runs:
            experts = run.first + run.step * torch.arange(run.experts)
            stop = run.start + run.experts * run.rows
            strip.of(expert_of)[run.start : stop] = experts.repeat_interleave(run.rows)
        if strip.padding is not None:
            strip.of(padding)[strip.padding] = True
    assert end == R
    assert torch.equal(expert_of[layout.row], index)
    assert torch.equal(layout.token[layout.row], torch.arange(N)[:, None].expand(N, k))
    assert torch.equal(layout.row.flatten().sort().values, (~padding).nonzero().flatten())
    assert padding.sum() <= N * k / 8
    assert set(layout.idle) == set(range(E)) - set(index.flatten().tolist())


def test_short_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for elements, work in ((1 << 19, 1 << 26), (1, 1 << 26), (1, 0)):
        monkeypatch.setattr(layouts, "STRIP_ELEMENTS", elements)
        monkeypatch.setattr(layouts, "SHARED_WORK", work)
        inputs = problem(60, 8, 8, 9, 2)
        leaves = [inputs[name].requires_grad_() for name in ROW.differentiable]
        out = routed_experts(**inputs)
        results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


@pytest.mark.parametrize("impl", ROW.implementations)
def test_an_expert_nobody_names_is_not_read(impl: str) -> None:
    inputs = problem(20, 4, 3, 6, 2, impl=impl)
    inputs["expert_index"] = inputs["expert_index"].new_tensor([[0, 3]]).expand(20, 2)
    for name in ("w_gate", "w_up", "w_down"):
        inputs[name][5] = torch.nan
        inputs[name].requires_grad_()
    out = routed_experts(**inputs, impl=impl)
    assert out.isfinite().all()
    for grad in torch.autograd.grad(out.sum(), [inputs[name] for name in ("w_gate", "w_up", "w_down")]):
        assert not grad[[1, 2, 4, 5]].any()
        assert grad[[0, 3]].any()


@pytest.mark.parametrize("impl", ROW.implementations)
@pytest.mark.parametrize("token", [0, 7])
def test_a_nan_shows_where_it_is_read_and_nowhere_else(impl: str, token: int) -> None:
    """Token 0 too, whose rows padding could have borrowed: no other token and no other expert's gradient sees it."""
    inputs = problem(30, 4, 3, 6, 2, impl=impl)
    inputs["x"][token] = torch.nan
    w_down = inputs["w_down"].requires_grad_()
    out = routed_experts(**inputs, impl=impl)
    assert out.isnan().any(1).nonzero().flatten().tolist() == [token]
    (grad,) = torch.autograd.grad(out.sum(), w_down)
    assert grad.isnan().flatten(1).any(1).nonzero().flatten().tolist() == sorted(inputs["expert_index"][token].tolist())


def test_padding_borrows_from_no_token() -> None:
    """Loads 9 and 8 share a run, so the second expert has a row of padding; token 0, which it might read, is NaN."""
    inputs = problem(17, 4, 3, 2, 1) | {"expert_index": (torch.arange(17) >= 9).long()[:, None]}
    assert len(permute(inputs["expert_index"], 2, 4, 3).token) == 18
    inputs["x"][0] = torch.nan
    weights = [inputs[name].requires_grad_() for name in ("w_gate", "w_up", "w_down")]
    for grad in torch.autograd.grad(routed_experts(**inputs).sum(), weights):
        assert grad[0].isnan().any()
        assert grad[1].isfinite().all()


@pytest.mark.parametrize("train", [False, True])
def test_memory_does_not_grow_with_experts_and_is_linear_in_tokens(train: bool) -> None:
    def measure(N: int, E: int, busy: int | None = None) -> Allocations:
        inputs = {name: value.float() for name, value in problem(N, 32, 8, E, 2).items() if name != "expert_index"}
        for name in ("x", "expert_weight"):
            inputs[name].requires_grad_(train)
        index = torch.randint(busy or E, (N, 2), generator=torch.Generator().manual_seed(0))
        with Allocations() as allocations:
            out = routed_experts(**inputs, expert_index=index)
            if train:
                torch.autograd.grad(out.sum(), [inputs["x"], inputs["expert_weight"]])
        return allocations

    few, many, long = measure(1024, 4), measure(1024, 64), measure(2048, 64)
    assert long.largest <= 2048 * 2 * 32 * 4 * 9 / 8
    assert many.peak <= 1.2 * few.peak
    assert long.peak <= 2.2 * many.peak
    assert measure(2048, 64, busy=1).peak <= 1.2 * long.peak


def test_contests_agree() -> None:
    from gatescope_kernels.bench import hold

    for contest in contests("cpu", quick=True):
        assert len(hold(contest, rounds=1)) == 1 + len(contest.baselines)


@pytest.mark.usefixtures("as_a_user")
def test_fuzz() -> None:
    """Whatever is passed, the answer is a Refusal or finite numbers of the right shape, the same from all."""
    dice, answered = random.Random(0), 0
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    for case in range(1200):
        N, D, F, E, k = (dice.choice((0, 1, 1, 2, 3, 5, 5, 17)) for _ in range(5))
        off = {name: dice.random() < 0.06 for name in ("rank", "size", "dtype", "index")}
        dtype = dice.choice((torch.float32, torch.float64, torch.float16, torch.bfloat16))
        inputs = {"x": normal(N, D), "expert_weight": normal(N, k), "w_gate": normal(E, D, F)}
        inputs |= {"w_up": normal(E, D, F), "w_down": normal(E, F, D)}
        inputs = {name: value.to(dtype) for name, value in inputs.items()}
        inputs["expert_index"] = torch.randint(max(E, 1) + off["index"], (N, k), generator=generator) - int(
            off["index"]
        )
        name = dice.choice(sorted(inputs))
        if off["rank"]:
            inputs[name] = inputs[name][None]
        if off["size"]:
            inputs[name] = torch.cat([inputs[name]] * 2, dice.randrange(inputs[name].dim()))
        if off["dtype"]:
            inputs[name] = inputs[name].to(dice.choice((torch.int64, torch.bool, torch.float32)))
        try:
            out = routed_experts(**inputs)
        except Refusal:
            continue
        answered += 1
        assert out.shape == inputs["x"].shape
        assert out.dtype == inputs["x"].dtype
        assert out.isfinite().all()
        wide = {key: value.double() if key != "expert_index" else value for key, value in inputs.items()}
        wanted = routed_experts(**wide, impl="reference")
        assert (out.double() - wanted).abs().max() <= 1e-2 * max(1.0, wanted.abs().max().item())
        if case % 25 == 0 and dtype in (torch.float32, torch.float16):
            fused = routed_experts(**{name: value.to(DEVICE) for name, value in inputs.items()}, impl="fused").cpu()
            assert (fused.double() - wanted).abs().max() <= 1e-2 * max(1.0, wanted.abs().max().item())
    assert 300 < answered < 1000
