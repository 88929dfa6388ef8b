"""Gated linear attention against oracles that share no code with it."""

from __future__ import annotations

import ast
import itertools
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import gatescope_kernels.ops.gated_linear_attention as op_folder
import pytest
import torch
from gatescope_kernels import Refusal, gated_linear_attention
from gatescope_kernels.ops._table import OPS
from gatescope_kernels.ops.gated_linear_attention import blockwise, fused
from gatescope_kernels.ops.gated_linear_attention.pairs import Decays, multiply
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

ROW = OPS["gated_linear_attention"]
IMPLS = ROW.implementations
#: The kernels know no float64: what they are asked is rounded on the way in.
WIDE = [impl for impl in IMPLS if impl != "fused"]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def attend(impl: str, **inputs: Any) -> tuple[Tensor, Tensor]:
    """float64 in and out, whatever ``impl`` computes in."""
    if impl == "fused":
        inputs = {name: x.float() if isinstance(x, Tensor) else x for name, x in inputs.items()}
    out, final = gated_linear_attention(**inputs, impl=impl)
    return out.double(), final.double()


def assert_close(impl: str, got: Any, wanted: Any) -> None:
    tolerances = {"rtol": 1e-4, "atol": 2e-5} if impl == "fused" else {}
    torch.testing.assert_close(got, wanted, **tolerances)


def made(B: int, H: int, T: int, K: int, V: int, *, vector: bool, delta: bool, seed: int = 0) -> dict[str, Tensor]:
    k = normal(B, H, T, K, seed=seed + 1)
    inputs = {"q": normal(B, H, T, K, seed=seed), "k": normalize(k, dim=-1) if delta else k}
    inputs |= {"v": normal(B, H, T, V, seed=seed + 2), "initial_state": normal(B, H, K, V, seed=seed + 3)}
    inputs["g"] = logsigmoid(normal(B, H, T, *([K] if vector else []), seed=seed + 4)) / 4
    if delta:
        inputs["beta"] = torch.sigmoid(normal(B, H, T, seed=seed + 5))
    return inputs


def forget_some(g: Tensor) -> Tensor:
    """Some decays are 0, some -20, some -1e4."""
    dice = torch.rand(g.shape, generator=torch.Generator().manual_seed(9))
    for low, value in ((0.9, 0.0), (0.8, -20.0), (0.7, -1e4)):
        g = torch.where((dice >= low) & (dice < low + 0.1), value, g)
    return g


def parallel(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, initial_state: Tensor, beta: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The quadratic form: masked cumulative decays of all pairs, and one T x T system for the delta rule."""
    T, K = q.shape[2:]
    c = (g if g.dim() == 4 else g[..., None].expand_as(q)).cumsum(2)
    past = torch.ones(T, T, dtype=torch.bool).tril()
    decay = (c[:, :, :, None] - c[:, :, None]).masked_fill(~past[..., None], -math.inf).exp()
    reads = torch.einsum("bhik,bhjk,bhijk->bhij", q, k, decay) / math.sqrt(K)
    u = v
    if beta is not None:
        known = torch.einsum("bhik,bhjk,bhijk->bhij", k, k, decay).tril(-1)
        system = torch.eye(T, dtype=q.dtype) + beta[..., None] * known
        u = torch.linalg.solve(system, beta[..., None] * (v - (k * c.exp()) @ initial_state))
    out = reads @ u + (q * c.exp()) @ initial_state / math.sqrt(K)
    final = c[:, :, -1, :, None].exp() * initial_state + (k * decay[:, :, -1]).mT @ u
    return out, final


def householder(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, initial_state: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    """The gated delta rule as its paper writes it, values by keys: S_t = a S_{t-1} (I - b k k^T) + b v k^T."""
    out = torch.zeros_like(v)
    final = torch.zeros_like(initial_state)
    B, H, T, K = q.shape
    for b in range(B):
        for h in range(H):
            state = initial_state[b, h].T
            for t in range(T):
                key, rate = k[b, h, t], beta[b, h, t]
                reflection = torch.eye(K, dtype=q.dtype) - rate * torch.outer(key, key)
                state = g[b, h, t].exp() * state @ reflection + rate * torch.outer(v[b, h, t], key)
                out[b, h, t] = state @ q[b, h, t] / math.sqrt(K)
            final[b, h] = state.T
    return out, final


@pytest.mark.parametrize(("impl", "T"), [*itertools.product(WIDE, (1, 7, 70)), ("fused", 70)])
@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("vector", [False, True])
def test_equals_the_quadratic_form(impl: str, T: int, vector: bool, delta: bool, extreme: bool) -> None:
    inputs = made(*((1, 1) if impl == "fused" else (2, 2)), T, 5, 4, vector=vector, delta=delta)
    if extreme:
        inputs["g"] = forget_some(inputs["g"])
    leaves = [x.requires_grad_() for x in inputs.values()]
    wanted, got = parallel(**inputs), attend(impl, **inputs)
    assert_close(impl, got, wanted)
    weights = [normal(*x.shape, seed=7) for x in wanted]
    grads = [torch.autograd.grad(results, leaves, weights) for results in (got, wanted)]
    assert_close(impl, *grads)


@pytest.mark.parametrize("impl", IMPLS)
def test_delta_rule_equals_its_product_of_reflections(impl: str) -> None:
    inputs = made(1, 2, 40, 6, 5, vector=False, delta=True)
    assert_close(impl, attend(impl, **inputs), householder(**inputs))


def test_delta_rule_equals_transformers() -> None:
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

    inputs = {name: x.float() for name, x in made(2, 2, 100, 16, 8, vector=False, delta=True).items()}
    q, k, v, g, beta = (inputs[name].transpose(1, 2) for name in ("q", "k", "v", "g", "beta"))
    state = inputs["initial_state"]
    theirs, final = torch_chunk_gated_delta_rule(q, k, v, g, beta, initial_state=state, output_final_state=True)
    got = gated_linear_attention(**inputs)
    torch.testing.assert_close(got, (theirs.transpose(1, 2), final), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("impl", "lengths"),
    [*itertools.product(WIDE, [(1,) * 9, (5, 70, 1, 64), (130, 3)]), ("fused", (5, 70, 1))],
)
@pytest.mark.parametrize("delta", [False, True])
def test_a_stream_is_the_whole_sequence(impl: str, delta: bool, lengths: tuple[int, ...]) -> None:
    inputs = made(1, 1, sum(lengths), 6, 5, vector=not delta, delta=delta)
    state = inputs.pop("initial_state")
    wanted = gated_linear_attention(**inputs, initial_state=state, impl="reference")
    outputs = []
    for pieces in zip(*(x.split(lengths, 2) for x in inputs.values()), strict=True):
        piece = dict(zip(inputs, pieces, strict=True))
        out, state = attend(impl, **piece, initial_state=state)
        outputs.append(out)
    assert_close(impl, (torch.cat(outputs, 2), state), wanted)


def test_a_stream_in_half_precision_carries_a_float32_state() -> None:
    inputs = {name: x.bfloat16() for name, x in made(1, 2, 20, 8, 8, vector=True, delta=False).items()}
    _, state = gated_linear_attention(**inputs)
    out, again = gated_linear_attention(**inputs | {"initial_state": state})
    assert (out.dtype, state.dtype, again.dtype) == (torch.bfloat16, torch.float32, torch.float32)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    B=st.integers(1, 2),
    H=st.integers(1, 3),
    T=st.integers(1, 150),
    K=st.integers(1, 9),
    V=st.integers(1, 9),
    vector=st.booleans(),
    delta=st.booleans(),
    extreme=st.booleans(),
)
def test_any_shape_matches_the_reference(B, H, T, K, V, vector, delta, extreme) -> None:
    inputs = made(B, H, T, K, V, vector=vector, delta=delta)
    if extreme:
        inputs["g"] = forget_some(inputs["g"])
    wanted = gated_linear_attention(**inputs, impl="reference")
    torch.testing.assert_close(gated_linear_attention(**inputs, impl="blockwise"), wanted)


@pytest.mark.parametrize("seed", range(4))
def test_kernels_on_any_shape_match_the_reference(seed: int) -> None:
    dice = random.Random(seed)
    B, H, T, K, V = dice.randint(1, 2), 1, dice.randint(1, 150), dice.randint(1, 40), dice.randint(1, 300)
    inputs = made(B, H, T, K, V, vector=seed % 2 == 0, delta=seed % 3 == 0)
    if dice.random() < 0.5:
        inputs["g"] = forget_some(inputs["g"])
    leaves = [x.requires_grad_() for x in inputs.values()]
    weights = [normal(B, H, T, V, seed=7), normal(B, H, K, V, seed=8)]
    results = [attend(impl, **inputs) for impl in ("fused", "reference")]
    grads = [torch.autograd.grad(pair, leaves, weights) for pair in results]
    for got, wanted in zip(*([*pair, *grad] for pair, grad in zip(results, grads, strict=True)), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5 * max(1.0, wanted.abs().max().item()))


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("vector", [False, True])
def test_kernels_compute_the_same_with_small_tiles(vector: bool, delta: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 16 tokens, several tiles of channels and of values, the last of each cut off."""
    inputs = {name: x.float() for name, x in made(1, 1, 20, 20, 20, vector=vector, delta=delta).items()}
    leaves = [x.requires_grad_() for x in inputs.values()]
    tiles, few = fused.tiles, dict.fromkeys(("C", "pairs", "gradients", "reads", "carried", "values"), 16)
    results = []
    for changed in ({}, few):
        monkeypatch.setattr(fused, "tiles", lambda *tensors, changed=changed: replace(tiles(*tensors), **changed))
        out, final = gated_linear_attention(**inputs, impl="fused")
        results.append([out, final, *torch.autograd.grad(out.square().sum() + final.square().sum(), leaves)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * other.abs().max().item())


def test_kernels_take_each_argument_in_its_own_dtype() -> None:
    inputs = {name: x.half() for name, x in made(1, 1, 20, 8, 8, vector=False, delta=True).items()}
    inputs |= {name: inputs[name].float() for name in ("g", "beta", "initial_state")}
    leaves = [x.requires_grad_() for x in inputs.values()]
    out, final = gated_linear_attention(**inputs, impl="fused")
    assert (out.dtype, final.dtype) == (torch.float16, torch.float32)
    grads = torch.autograd.grad(out.float().sum() + final.sum(), leaves)
    assert [grad.dtype for grad in grads] == [x.dtype for x in leaves]


def test_repeated_keys_cost_the_inverse_no_digits() -> None:
    """One key all along, beta = 1, no decay: a series in powers of A would sum numbers of 10^17 to 1."""
    inputs = made(1, 1, 64, 16, 8, vector=False, delta=True)
    inputs["k"] = inputs["k"][:, :, :1].expand(1, 1, 64, 16)
    inputs |= {"g": torch.zeros(1, 1, 64).double(), "beta": torch.ones(1, 1, 64).double(), "q": inputs["k"]}
    out, _ = attend("fused", **inputs, scale=1.0)
    assert_close("fused", out, inputs["v"])


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("vector", [False, True])
def test_gradcheck(vector: bool, delta: bool) -> None:
    inputs = made(1, 2, 6, 3, 2, vector=vector, delta=delta)
    names, leaves = list(inputs), [x.requires_grad_() for x in inputs.values()]
    assert torch.autograd.gradcheck(lambda *xs: gated_linear_attention(**dict(zip(names, xs, strict=True))), leaves)


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("T", [100, 128])
def test_chunk_and_span_change_nothing(delta: bool, T: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = made(2, 2, T, 5, 4, vector=True, delta=delta)
    leaves = [x.requires_grad_() for x in inputs.values()]
    results = []
    for chunk, elements in ((64, 1 << 20), (16, 1), (64, 1), (128, 1 << 20)):
        monkeypatch.setattr(blockwise, "CHUNK", chunk)
        monkeypatch.setattr(blockwise, "ELEMENTS", elements)
        out, final = gated_linear_attention(**inputs)
        results.append([out, final, *torch.autograd.grad(out.square().sum() + final.square().sum(), leaves)])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


@pytest.mark.parametrize("used", ["out", "final"])
def test_gradients_when_one_result_is_used(used: str) -> None:
    inputs = made(1, 1, 70, 4, 3, vector=True, delta=True)
    leaves = [x.requires_grad_() for name, x in inputs.items() if used == "out" or name != "q"]
    grads = []
    for impl in IMPLS:
        out, final = attend(impl, **inputs)
        grads.append(torch.autograd.grad((out if used == "out" else final).sum(), leaves))
    for impl, found in zip(IMPLS[1:], grads[1:], strict=True):
        assert_close(impl, found, grads[0])


@pytest.mark.parametrize("impl", IMPLS)
def test_without_decay_it_is_linear_attention(impl: str) -> None:
    """g = 0: out = tril(q k^T) v; the final state is k^T v. g = -inf: a token reads itself alone."""
    inputs = made(1, 2, 66, 4, 3, vector=False, delta=False)
    q, k, v = (inputs[name] for name in ("q", "k", "v"))
    found = attend(impl, q=q, k=k, v=v, g=torch.zeros(1, 2, 66, dtype=torch.float64), scale=1.0)
    assert_close(impl, found, ((q @ k.mT).tril() @ v, k.mT @ v))
    g = torch.full((1, 2, 66, 4), -math.inf, dtype=torch.float64, requires_grad=True)
    out, final = attend(impl, q=q, k=k, v=v, g=g, scale=1.0)
    assert_close(impl, out, (q * k).sum(-1, keepdim=True) * v)
    assert_close(impl, final, k[:, :, -1, :, None] * v[:, :, -1, None])
    (dg,) = torch.autograd.grad(out.sum() + final.sum(), g)
    assert_close(impl, dg, torch.zeros_like(dg))


@pytest.mark.parametrize("impl", IMPLS)
def test_delta_rule_recalls_what_it_wrote(impl: str) -> None:
    """beta = 1 and no decay: reading with the key just written gives its value exactly, whatever the state held."""
    inputs = made(1, 2, 90, 8, 4, vector=False, delta=True)
    inputs |= {"q": inputs["k"], "g": torch.zeros(1, 2, 90).double(), "beta": torch.ones(1, 2, 90).double()}
    out, _ = attend(impl, **inputs, scale=1.0)
    assert_close(impl, out, inputs["v"])


@pytest.mark.parametrize("decay", [0.0, -1e-3, -2.0, -20.0, -1e4])
def test_float32_gradients_of_long_constant_decays_stay_finite(decay: float) -> None:
    inputs = {name: x.float().requires_grad_() for name, x in made(1, 1, 300, 8, 8, vector=True, delta=False).items()}
    inputs["g"] = torch.full((1, 1, 300, 8), decay, requires_grad=True)
    out, final = gated_linear_attention(**inputs)
    for grad in torch.autograd.grad(out.sum() + final.sum(), list(inputs.values())):
        assert grad.isfinite().all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("place", ["k", "v", "g", "q", "initial_state"])
def test_nan_is_never_lost(impl: str, delta: bool, place: str) -> None:
    inputs = made(1, 1, 150, 4, 4, vector=not delta, delta=delta)
    index = (0, 0, 0, 0) if place == "initial_state" else (0, 0, 70, 0)[: inputs[place].dim()]
    inputs[place][index] = torch.nan
    out, final = attend(impl, **inputs)
    if place == "q":
        assert out[:, :, 70].isnan().all()
        return
    first = 0 if place == "initial_state" else 70
    assert out[:, :, first:].isnan().any(-1).all()
    assert final.isnan().any()


def test_a_nan_stays_out_of_the_chunks_before_it() -> None:
    inputs = made(1, 1, 150, 4, 4, vector=True, delta=True)
    inputs["v"][0, 0, 70] = torch.nan
    assert gated_linear_attention(**inputs)[0][:, :, :64].isfinite().all()


def test_second_derivatives_are_refused_by_autograd() -> None:
    inputs = made(1, 1, 5, 3, 3, vector=True, delta=False)
    q = inputs["q"].requires_grad_()
    (grad,) = torch.autograd.grad(gated_linear_attention(**inputs)[0].square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("width", [1, 3])
def test_halving_parts_every_pair_once(width: int) -> None:
    """With x = y = 1 and decays that are distinct primes' inverses, P is the product of those between, exactly."""
    primes = torch.tensor([2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0], dtype=torch.float64)
    a = (1 / primes)[None, :, None].expand(1, 8, width).contiguous()
    decays = Decays(a)
    pairs = multiply(torch.ones(1, 8, 2, 3).double(), torch.ones(1, 8, 3).double(), decays)
    for i in range(8):
        for j in range(8):
            wanted = 3 * math.prod((1 / primes)[j + 1 : i + 1].tolist()) if i > j else 0.0
            assert pairs[0, i, :, j].tolist() == pytest.approx([wanted, wanted])
    torch.testing.assert_close(decays.since, a.cumprod(1))
    torch.testing.assert_close(decays.until[:, :-1], a.flip(1).cumprod(1).flip(1)[:, 1:])
    assert (decays.until[:, -1] == 1).all()


def test_blockwise_does_not_import_the_reference() -> None:
    folder = Path(op_folder.__file__).parent
    for module in ("blockwise", "pairs"):
        for node in ast.walk(ast.parse((folder / f"{module}.py").read_text())):
            if isinstance(node, ast.ImportFrom):
                names = {(node.module or "").split(".")[-1], *(alias.name for alias in node.names)}
                assert not names & {"reference", "api"}


def _maybe(generator: torch.Generator, share: float) -> bool:
    return torch.rand((), generator=generator).item() < share


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("block", range(8))
def test_fuzz_ends_in_a_refusal_or_in_finite_numbers(block: int) -> None:
    """Random shapes, dtypes and options, some of them wrong: nothing but a Refusal is raised, and no NaN is made."""
    generator = torch.Generator().manual_seed(block)
    outcomes = {"refused": 0, "ran": 0}
    for _ in range(130):
        sizes = torch.randint(1, 5, (4,), generator=generator).tolist()
        B, H, K, V = sizes
        T = int(torch.randint(0 if _maybe(generator, 0.1) else 1, 80, (), generator=generator))
        dtype = (torch.float32, torch.float16, torch.bfloat16, torch.float64)[block % 4]
        decay = (0.0, -0.1, -20.0, -1e4, -math.inf)[int(torch.randint(0, 5, (), generator=generator))]
        inputs = {"q": (B, H, T, K), "k": (B, H, T, K), "v": (B, H, T, V)}
        inputs["g"] = (B, H, T, K) if _maybe(generator, 0.5) else (B, H, T)
        if _maybe(generator, 0.5):
            inputs["beta"] = (B, H, T)
        if _maybe(generator, 0.5):
            inputs["initial_state"] = (B, H, K, V)
        tensors = {}
        for name, shape in inputs.items():
            if _maybe(generator, 0.08):
                wrong = list(shape)
                wrong[int(torch.randint(0, len(wrong), (), generator=generator))] += 1
                shape = tuple(wrong) if _maybe(generator, 0.7) else shape[1:]
            x = torch.randn(shape, generator=generator).to(dtype)
            if name == "g":
                x = torch.full(shape, decay, dtype=dtype)
            if name == "k":
                x = normalize(x.float(), dim=-1).to(dtype)
            if name == "beta":
                x = torch.sigmoid(x)
            tensors[name] = x.long() if _maybe(generator, 0.03) else x
        tensors = {name: x.requires_grad_(x.is_floating_point()) for name, x in tensors.items()}
        scale = (None, 0.0, 1.0, math.nan)[int(torch.randint(0, 4, (), generator=generator))]
        try:
            out, final = gated_linear_attention(**tensors, scale=scale)
        except Refusal:
            outcomes["refused"] += 1
            continue
        grads = torch.autograd.grad(out.float().sum() + final.float().sum(), list(tensors.values()))
        assert all(x.isfinite().all() for x in (out, final, *grads))
        outcomes["ran"] += 1
    assert min(outcomes.values()) >= 20
