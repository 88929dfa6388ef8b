"""Policies against decoding spelled out token by token, against the window intervention, and against each other."""

from __future__ import annotations

import math

import pytest
import torch
from gatescope.errors import Refusal
from gatescope.interventions import WindowWithSinks
from gatescope.layers import AttentionSpec
from gatescope.models import LMConfig, TinyLM
from gatescope.policies import POLICIES, AttentionGate, AttentionGateSpec, Chance, Evict, HeavyHitters, Recent
from gatescope.taps import AttentionCall
from gatescope_kernels import Visibility, gated_attention

B, H, G, T, K, D = 2, 4, 2, 19, 6, 10


def call(seed: int = 0, length: int = T, **changes) -> AttentionCall:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (2 * torch.randn(B, heads, length, K, generator=generator, dtype=torch.float64) for heads in (H, G, G))
    return AttentionCall(q, k, v, **changes)


def gate(**changes) -> AttentionGate:
    spec = AttentionGateSpec(**{"n_layers": 1, "d_model": D, "n_kv_heads": G, "width": 4} | changes)
    return AttentionGate(spec, generator=torch.Generator().manual_seed(3)).double()


def stream(length: int = T) -> torch.Tensor:
    return torch.randn(B, length, D, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def evicted(evict: Evict, given: AttentionCall, x: torch.Tensor | None = None) -> torch.Tensor:
    if evict.policy.needs_stream:
        evict.edit("embed", None, stream(given.q.shape[2]) if x is None else x)
    return gated_attention(**evict.edit("attention", 0, given).arguments())


def worth(policy, b: int, g: int, mass: dict[int, float], now: int) -> dict[int, float]:
    """Scores of the keys in a cache, without `Cache`."""
    if isinstance(policy, Recent):
        return {j: math.inf if j < policy.sink_tokens else j for j in mass}
    if isinstance(policy, HeavyHitters):
        return dict(mass)
    if isinstance(policy, Chance):
        key = policy.seed * 1_000_003 * 10_007 + b * G + g
        drawn = torch.rand(T, generator=torch.Generator().manual_seed(key), dtype=torch.float64)
        return {j: float(drawn[j]) for j in mass}
    block = policy.gates[0]
    q, k, v = (block.norm(stream()[b, :now]) @ block.qkv.weight.T).chunk(3, -1)
    weights = (q @ k.T / math.sqrt(q.shape[-1])).masked_fill(torch.ones(now, now).triu(1) > 0, -math.inf).softmax(-1)
    z = torch.cat([weights @ v, v], -1) @ block.out.weight[g]
    return {j: float(z[j]) for j in mass}


@torch.no_grad()
def decoded(policy, given: AttentionCall, budget: int, every: int, sink: float | None) -> torch.Tensor:
    """Token by token with a real cache: a dictionary of keys a head, from which keys are deleted."""
    out = torch.zeros(B, H, T, K, dtype=torch.float64)
    for b in range(B):
        for g in range(G):
            mass: dict[int, float] = {}
            for i in range(T):
                if i > budget and (i - budget) % every == 0:
                    scores, latest = worth(policy, b, g, mass, i), round(policy.recent * budget)
                    scores |= {j: math.inf for j in mass if j >= i - latest}
                    stay = sorted(scores, key=lambda j: (-scores[j], j))[:budget]
                    mass = {j: mass[j] for j in sorted(stay)}
                mass[i] = 0.0
                cached = list(mass)
                for h in range(g * H // G, (g + 1) * H // G):
                    s = (given.k[b, g, cached] @ given.q[b, h, i] / math.sqrt(K)).exp()
                    a = s / (s.sum() + (0 if sink is None else math.exp(sink)))
                    out[b, h, i] = a @ given.v[b, g, cached]
                    for j, weight in zip(cached, a.tolist(), strict=True):
                        mass[j] += weight
    return out


@pytest.mark.parametrize("policy", [Recent(2), HeavyHitters(), gate(), Chance(5)], ids=lambda policy: policy.name)
@pytest.mark.parametrize(("every", "sink"), [(1, None), (4, 0.5)])
def test_a_pass_is_decoding_with_a_cache_that_forgets(policy, every: int, sink: float | None) -> None:
    evict = Evict(policy, budget=6, every=every)
    with torch.no_grad():
        found = evicted(evict, call(sink=sink))
    torch.testing.assert_close(found, decoded(policy, call(), 6, every, sink))
    left = evict.kept[0].sum(-1)
    last = max(s for s in range(6 + every, T, every))
    assert left.unique().tolist() == [6 + T - last]


@pytest.fixture(scope="module")
def model() -> TinyLM:
    attention = AttentionSpec(n_heads=4, n_kv_heads=2, head_dim=4)
    config = LMConfig(vocab=11, d_model=D, n_layers=2, attention=attention, mlp=None, init_std=0.4)
    return TinyLM(config, init_seed=0).double()


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(0, 11, (2, 20), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_recent_at_every_token_is_the_window_intervention(model, tokens) -> None:
    for sinks in (0, 3):
        with Evict(Recent(sinks), budget=7).on(model):
            found = model(tokens)
        with WindowWithSinks(7 - sinks + 1, sinks).on(model):
            torch.testing.assert_close(found, model(tokens))
        assert not torch.allclose(found, model(tokens), atol=1e-3)


@torch.no_grad()
def test_a_budget_as_long_as_the_text_changes_nothing_and_policies_differ_below(model, tokens) -> None:
    policies = [Recent(1), HeavyHitters(), gate(n_layers=2), Chance()]
    assert {type(policy).name for policy in policies} == set(POLICIES)
    full, found = model(tokens), []
    for policy in policies:
        with Evict(policy, budget=20).on(model):
            torch.testing.assert_close(model(tokens), full)
        with Evict(policy, budget=5, every=3).on(model):
            found.append(model(tokens))
    torch.testing.assert_close(torch.stack(found)[:, :, :8], full[:, :8].expand(4, -1, -1, -1))
    for one in range(4):
        for other in range(one):
            assert not torch.allclose(found[one], found[other], atol=1e-3)


@torch.no_grad()
def test_the_control_keeps_as_many_at_random_and_the_same_for_one_seed() -> None:
    evict = Evict(HeavyHitters(recent=0.4), budget=5, every=3)
    runs = [evict, evict.control(0), evict.control(0), evict.control(1)]
    outputs = [evicted(run, call()) for run in runs]
    assert torch.equal(outputs[1], outputs[2])
    for one, other in ((0, 1), (1, 3)):
        assert not torch.allclose(outputs[one], outputs[other], atol=1e-3)
    for run in runs:
        assert torch.equal(run.kept[0].sum(-1), evict.kept[0].sum(-1))
        assert run.kept[0][:, :, -4:].all()


def heavy_call(seed: int) -> AttentionCall:
    """Every query looks for key 3; all other keys are alike."""
    given = call(seed)
    given.q[..., 0] = 5.0
    given.k[:, :, 3, 0] = 9.0
    return given


def error(evict: Evict, given: AttentionCall) -> float:
    with torch.no_grad():
        return float((evicted(evict, given) - gated_attention(given.q, given.k, given.v))[:, :, -5:].square().mean())


def test_heavy_hitters_keep_what_everybody_reads_where_recency_loses_it() -> None:
    given = heavy_call(4)
    evict = Evict(HeavyHitters(), budget=6)
    found = error(evict, given)
    assert evict.kept[0][:, :, 3].all()
    assert found < 0.1 * error(Evict(Recent(2), budget=6), given)
    assert found < 0.1 * error(Evict(HeavyHitters(recent=1.0), budget=6), given)
    assert found < 0.1 * error(evict.control(0), given)


def needed_later(seed: int) -> tuple[AttentionCall, torch.Tensor, torch.Tensor]:
    """Two marked tokens that nobody reads before the last queries do; the stream shows the mark."""
    generator = torch.Generator().manual_seed(seed)
    given, x = call(seed, 24), torch.randn(B, 24, D, generator=generator, dtype=torch.float64)
    marked = torch.stack([torch.randperm(12, generator=generator)[:2] for _ in range(B)])
    given.q[..., 0], given.k[..., 0] = 0.0, -4.0
    for b in range(B):
        x[b, marked[b], 0] += 4.0
        given.k[b, :, marked[b], 0] = 4.0
    given.q[:, :, :20, 0], given.q[:, :, 20:, 0] = -6.0, 6.0
    return given, x, gated_attention(given.q, given.k, given.v)[:, :, 20:]


def test_a_gate_learns_through_the_loss_what_will_be_needed() -> None:
    made = gate(recent=0.25)
    learner = Evict(made, budget=8, every=8)
    optimiser = torch.optim.Adam(made.parameters(), lr=4e-2)
    for step in range(25):
        given, x, wanted = needed_later(step)
        optimiser.zero_grad()
        (evicted(learner, given, x)[:, :, 20:] - wanted).square().mean().backward()
        optimiser.step()
    others = [Recent(2), HeavyHitters(), Chance(recent=0.25), gate(recent=0.25)]
    total = dict.fromkeys(range(5), 0.0)
    with torch.no_grad():
        for seed in range(1000, 1008):
            given, x, wanted = needed_later(seed)
            for number, policy in enumerate([made, *others]):
                found = evicted(Evict(policy, budget=8, every=8), given, x)[:, :, 20:]
                total[number] += float((found - wanted).square().mean())
    assert total[0] < 0.3 * min(total[number] for number in range(1, 5)), total


def test_the_straight_through_gradient_is_what_reading_a_key_would_do() -> None:
    given = call(length=8)
    p = torch.full((B, G, 7), 0.5, dtype=torch.float64, requires_grad=True)
    p.data[..., :3] = 0.1

    class Fixed(Recent):
        def scores(self, cache):
            return p

    found = evicted(Evict(Fixed(), budget=6), given)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (found * weights).sum().backward()
    # m_j multiplies exp(S_ij): query 7 alone reads after the only eviction.
    s = (given.q[:, :, 7:8].unflatten(1, (G, -1)) @ given.k[:, :, None].mT / math.sqrt(K)).exp()[..., 0, :]
    m = torch.ones(B, G, 1, 8, dtype=torch.float64)
    m[..., 2] = 1e-6
    m.requires_grad_()
    a = s * m / (s * m).sum(-1, keepdim=True)
    wanted = (a @ given.v).flatten(1, 2)
    (wanted * weights[:, :, 7]).sum().backward()
    torch.testing.assert_close(p.grad, m.grad[:, :, 0, :7], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"key_mask": torch.tensor([[True] * 18 + [False]] * 2)}, "padding"),
        ({"visibility": Visibility(window=5)}, "a window"),
        ({"visibility": Visibility(causal=False)}, "no causality"),
        ({"softcap": 5.0}, "a softcap"),
        ({"documents": torch.zeros(B, T, dtype=torch.long)}, "packed documents"),
    ],
)
def test_attention_it_does_not_know_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        evicted(Evict(HeavyHitters(), budget=4), call(**changes))


def test_refusals(model, tokens) -> None:
    for budget, every in ((0, 1), (1, 0)):
        with pytest.raises(Refusal, match="an interval of 1"):
            Evict(Recent(), budget, every)
    with pytest.raises(Refusal, match="a budget that holds the sink tokens"):
        evicted(Evict(Recent(5), budget=4), call())
    with pytest.raises(Refusal, match="sink_tokens >= 0"):
        Recent(-1)
    with pytest.raises(Refusal, match="a share of the budget"):
        HeavyHitters(recent=1.5)
    with pytest.raises(Refusal, match="other than chance"):
        Evict(Chance(), 4).control(0)
    with pytest.raises(Refusal, match=r"layers 0\.\.0"), Evict(gate(), 4).on(model):
        model(tokens)
    with pytest.raises(Refusal, match="channels"):
        evicted(Evict(gate(d_model=D + 1), 4), call())
    with pytest.raises(Refusal, match="NaN from HeavyHitters"):
        evicted(Evict(HeavyHitters(), 4), call(length=T, scale=math.nan))
    with pytest.raises(Refusal, match="sizes of 1"):
        gate(width=0)
