"""A hand-written tapped module that plays given tensors, and attention spelled out as a matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest

import pytest
import torch
import xarray as xr
from gatescope.probes import Probe
from gatescope.taps import SITES, AttentionCall, GateScores, RouterScores, attached, attend, tap
from gatescope_kernels import Visibility
from torch import Tensor, nn


class Player(nn.Module):
    """One layer an entry of ``calls``, ``hidden`` and ``gates``: all a model needs to be measured is these lines."""

    tap_sites = frozenset(SITES)

    def forward(
        self,
        calls: Sequence[AttentionCall] = (),
        hidden: Sequence[Tensor] = (),
        gates: Sequence[GateScores] = (),
        key_mask: Tensor | None = None,
        *,
        tokens: Tensor | None = None,
        embed: Tensor | None = None,
        updates: Sequence[tuple[Tensor, Tensor]] = (),
        mlps: Sequence[Tensor] = (),
        routers: Sequence[RouterScores] = (),
        logits: Tensor | None = None,
    ) -> None:
        if tokens is not None:
            tap("tokens", tokens)
        tap("key_mask", key_mask)
        if embed is not None:
            tap("embed", embed)
        for layer, call in enumerate(calls):
            attend(call, layer=layer)
        for site, values in (("gate", gates), ("mlp", mlps), ("router", routers)):
            for layer, value in enumerate(values):
                tap(site, value, layer=layer)
        for layer, (pair, h) in enumerate(zip_longest(updates, hidden)):
            for site, update in zip(("attention_update", "mlp_update"), pair or (), strict=False):
                tap(site, update, layer=layer)
            if h is not None:
                tap("resid", h, layer=layer)
        if logits is not None:
            tap("logits", logits)


def make_call(B=2, H=4, G=4, T=12, S=None, K=8, V=8, seed=0, dtype=torch.float64, **options) -> AttentionCall:
    """Random q, k, v; ``options`` go to AttentionCall."""
    S = S or T
    draw = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(*shape, generator=draw, dtype=dtype) for shape in ((B, H, T, K), (B, G, S, K), (B, G, S, V)))
    return AttentionCall(q, k, v, **options)


def matrix(call: AttentionCall) -> tuple[Tensor, Tensor]:
    """A [B H T S] in fp64 and what each row can see [B T S], from the definition alone. Padding rows see nothing."""
    B, H, T, K = call.q.shape
    G, S = call.k.shape[1:3]
    rule = call.visibility
    see = torch.zeros(B, T, S, dtype=torch.bool)
    for i in range(T):
        for j in range(S):
            p = i + S - T
            near = rule.window is None or abs(p - j) < rule.window or j < rule.sink_tokens
            see[:, i, j] = near and (j <= p or not rule.causal)
    if call.key_mask is not None:
        see &= call.key_mask[:, None] & call.key_mask[:, -T:, None]
    k = call.k.double().repeat_interleave(H // G, 1)
    logits = torch.einsum("bhtk,bhsk->bhts", call.q.double(), k) * (call.scale or K**-0.5)
    top = logits.amax(-1, keepdim=True).clamp(min=0)
    weight = torch.exp(logits - top) * see[:, None]
    total = weight.sum(-1, keepdim=True)
    if call.sink is not None:
        total = total + torch.exp(torch.as_tensor(call.sink, dtype=torch.float64).reshape(-1, 1, 1) - top)
    return weight / total.clamp(min=1e-300), see


def planted_sink() -> AttentionCall:
    """Every query gives key 0 a logit of 60 and all others none."""
    call = make_call()
    call.q[..., 0], call.k[..., 0] = 60 * 8**0.5, 0.0
    call.k[:, :, 0, 0] = 1.0
    return call


def masked() -> Tensor:
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, 5], mask[1, 7:9] = False, False
    return mask


CASES: dict[str, Callable[[], AttentionCall]] = {
    "plain": make_call,
    "one_sample": lambda: make_call(B=1),
    "grouped": lambda: make_call(H=6, G=2, V=5),
    "one_group": lambda: make_call(H=4, G=1),
    "window": lambda: make_call(visibility=Visibility(window=3)),
    "window_with_sinks": lambda: make_call(visibility=Visibility(window=3, sink_tokens=2)),
    "two_sided": lambda: make_call(visibility=Visibility(causal=False)),
    "two_sided_window": lambda: make_call(visibility=Visibility(causal=False, window=3, sink_tokens=1)),
    "decoding": lambda: make_call(T=4, S=12),
    "key_mask": lambda: make_call(key_mask=masked()),
    "learned_sink": lambda: make_call(sink=torch.tensor([-1.0, 0.0, 1.0, 3.0], dtype=torch.float64)),
    "off_by_one": lambda: make_call(sink=0.0, visibility=Visibility(window=4)),
    "planted_sink": planted_sink,
    "scaled": lambda: make_call(scale=0.7),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "call" in metafunc.fixturenames:
        metafunc.parametrize("call", [pytest.param(make(), id=name) for name, make in CASES.items()])


@pytest.fixture
def player() -> Player:
    return Player()


@pytest.fixture
def measure(player: Player) -> Callable[..., xr.Dataset]:
    """``measure(probe, calls=..., ...)``: one pass, or ``measure(probe, dict(calls=...), dict(calls=...))``."""

    def run(probe: Probe, *passes: dict, **single) -> xr.Dataset:
        with attached(player, probe):
            for given in passes or (single,):
                player(**given)
        return probe.finalize()

    return run


def route_of(logits: Tensor, k: int = 2, kind: str = "softmax", **options) -> RouterScores:
    """A router's scores from its logits [B T E], weights renormalised."""
    p = logits.softmax(-1) if kind == "softmax" else logits.sigmoid()
    weight, index = p.topk(k, dim=-1)
    return RouterScores(logits, p, index, weight / weight.sum(-1, keepdim=True), kind, **options)


@pytest.fixture
def scores_of() -> Callable[..., RouterScores]:
    return route_of


@pytest.fixture
def oracle() -> Callable[[AttentionCall], tuple[Tensor, Tensor]]:
    return matrix


@pytest.fixture
def call_of() -> Callable[..., AttentionCall]:
    return make_call
