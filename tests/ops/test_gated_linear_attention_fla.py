"""Gated linear attention against flash-linear-attention's own token-by-token forms, which share no code with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from gatescope_kernels import gated_linear_attention
from gatescope_kernels.ops._table import OPS
from gatescope_kernels.ops.gated_linear_attention.bench import fla_naive
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

IMPLS = OPS["gated_linear_attention"].implementations
B, H, T, K, V = 1, 1, 70, 8, 6


def made(vector: bool, delta: bool, strongest: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(B, H, *shape, generator=generator)

    inputs = {"q": normal(T, K), "k": normalize(normal(T, K), dim=-1), "v": normal(T, V)}
    g = logsigmoid(normal(T, K) if vector else normal(T))
    inputs["g"] = torch.where(g < g.quantile(0.05), strongest, g)
    if delta:
        inputs["beta"] = torch.sigmoid(normal(T))
    return {name: x.requires_grad_() for name, x in (inputs | {"initial_state": normal(K, V)}).items()}


def fla(vector: bool, delta: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    """Theirs with our arguments: positions before heads, and names of their own."""
    form = {
        (True, False): ("gla", "naive_recurrent_gla"),
        (False, False): ("gla", "naive_recurrent_gla"),
        (False, True): ("gated_delta_rule", "naive_recurrent_gated_delta_rule"),
        (True, True): ("kda", "naive_recurrent_kda"),
    }[vector, delta]
    run = fla_naive(*form)

    def attend(initial_state: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        theirs = {name: x.transpose(1, 2) for name, x in inputs.items()}
        if not delta:
            g = theirs.pop("g")
            theirs["gk"] = g if vector else g[..., None].expand_as(theirs["q"])
        out, final = run(**theirs, initial_state=initial_state, output_final_state=True)
        return out.transpose(1, 2), final

    return attend


@pytest.mark.parametrize("strongest", [-3.0, -1e4])
@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("impl", IMPLS)
def test_values_and_gradients_equal_flas(
    impl: str, vector: bool, delta: bool, strongest: float, require: Callable[..., None]
) -> None:
    require("fla", "einops")
    inputs = made(vector, delta, strongest)
    leaves = list(inputs.values())
    wanted, got = fla(vector, delta)(**inputs), gated_linear_attention(**inputs, impl=impl)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=2e-6)
    weights = [torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) for x in wanted]
    grads = [torch.autograd.grad(results, leaves, weights) for results in (got, wanted)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)
