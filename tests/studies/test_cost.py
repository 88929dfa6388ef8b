"""Costs on paper against what is counted: parameters, products, pairs, bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gatescope.errors import Refusal
from gatescope.gates import GateSpec
from gatescope.layers import AttentionSpec, MLPSpec
from gatescope.models import LMConfig, TinyLM, next_token_nll
from gatescope.studies import cost
from torch.utils.flop_counter import FlopCounterMode

SMALL = LMConfig(vocab=97, d_model=64, n_layers=2, attention=AttentionSpec(4, 2, 16), mlp=MLPSpec("swiglu", 160))
GATES = [
    None,
    GateSpec(position="sdpa"),
    GateSpec(position="sdpa", granularity="head", bias_init=2.0),
    GateSpec(position="value", sharing="shared"),
    GateSpec(position="output", bias_init=2.0),
    GateSpec(position="query", input="none"),
]


def gated(config: LMConfig, gate: GateSpec | None) -> LMConfig:
    return config if gate is None else cost.with_gate(config, gate)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("config", [SMALL, replace(SMALL, tie_embeddings=True, mlp=MLPSpec("gelu", 200))])
def test_parameters_are_those_of_the_model(config, gate):
    config = gated(config, gate)
    assert cost.parameters(config) == sum(parameter.numel() for parameter in TinyLM(config).parameters())


def test_the_1b_model_has_its_size():
    block = 2 * 2048 * 2048 + 2 * 2048 * 512 + 3 * 2048 * 8192 + 2 * 2048
    assert cost.parameters(cost.ONE_B) == 128_256 * 2048 + 16 * block + 2048 == 1_235_814_400


@pytest.mark.parametrize("gate", GATES[:5])
def test_products_are_those_that_torch_counts(gate):
    config, B, T = gated(SMALL, gate), 2, 33
    tokens = torch.randint(97, (B, T), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counted:
        next_token_nll(TinyLM(config), tokens).mean().backward()
    ops = counted.get_flop_counts()["Global"]
    products = ops[torch.ops.aten.mm] + ops.get(torch.ops.aten.addmm, 0)  # addmm: a gate with its bias
    assert products == cost.train_flops(config, B * T, T) - cost.attention_flops(config, B * T, T)


def test_attention_is_counted_pair_by_pair():
    B, H, T, K = 1, 3, 11, 8
    q, k, v = (torch.randn(B, H, T, K, requires_grad=True) for _ in range(3))
    with FlopCounterMode(display=False) as counted:
        ((q @ k.mT).softmax(-1) @ v).sum().backward()
    config = replace(SMALL, n_layers=1, attention=AttentionSpec(H, H, K))
    share = torch.ones(T, T).tril().mean().item()
    assert cost.attention_flops(config, T, T) == pytest.approx(counted.get_total_flops() * share)


def test_the_states_of_adam_take_sixteen_bytes():
    weight = torch.nn.Parameter(torch.zeros(1000, dtype=torch.float32))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    moments = [state for state in optimizer.state[weight].values() if state.numel() == 1000]
    copies = [weight.detach().bfloat16(), weight.grad.bfloat16()]
    held = sum(t.numel() * t.element_size() for t in [weight.detach(), *moments, *copies])
    assert held == 16 * 1000
    assert cost.memory_bytes(SMALL, 0, 0) == 16 * cost.parameters(SMALL)


def test_a_bill_is_hours_times_price():
    machine = cost.Machine("one", peak_flops=1e15, memory=80e9, utilisation=0.5, price=2.0)
    found = cost.bill(cost.ONE_B, machine, points=10, tokens=1e9, length=1024)
    assert found.gpu_hours == pytest.approx(cost.train_flops(cost.ONE_B, 1e9, 1024) / 5e14 / 3600)
    assert (found.dollars, found.study_dollars) == pytest.approx((2 * found.gpu_hours, 20 * found.gpu_hours))
    default = cost.bill(cost.ONE_B, machine)
    assert default.flops == cost.train_flops(cost.ONE_B, 20.0 * default.parameters, 4096)


@pytest.mark.parametrize(
    "call",
    [
        lambda: cost.Machine("none", 1e15, 1e9, utilisation=0.0),
        lambda: cost.bill(cost.ONE_B, cost.MACHINES["h100"], points=0),
        lambda: cost.parameters(replace(SMALL, mlp=None)),
        lambda: cost.parameters(replace(SMALL, attention=replace(SMALL.attention, convolution=4))),
    ],
)
def test_what_has_no_formula_is_refused(call):
    with pytest.raises(Refusal):
        call()


def test_the_page_holds_the_table_computed_now(root: Path):
    page = (root / "docs/studies.md").read_text(encoding="utf-8")
    assert "\n".join(cost.table(cost.MACHINES["h100"], 240)) in page
