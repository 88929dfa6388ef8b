"""A pass under a block mask: against loops in float64, through both operators, and what may choose the blocks."""

from __future__ import annotations

import math

import pytest
import torch
from gatescope.errors import Refusal
from gatescope.gates import GateSpec
from gatescope.interventions import BestBlocks, LatestBlocks, MeanBlocks, SparseBlocks, WindowWithSinks
from gatescope.layers import AttentionSpec, BlockExamples, BlockGates, BlockRule
from gatescope.models import LMConfig, TinyLM
from gatescope.probes import Entropy
from gatescope.scope import Scope
from gatescope.taps import AttentionCall, BlockMask, Handler, attached, core
from gatescope_kernels import Visibility, block_max_attention, gated_attention

B, H, G, T, K, BLOCK = 2, 4, 2, 22, 6, 4
ROWS = math.ceil(T / BLOCK)


def call(seed: int = 0, length: int = T, **changes) -> AttentionCall:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (2 * torch.randn(B, heads, length, K, generator=generator, dtype=torch.float64) for heads in (H, G, G))
    return AttentionCall(q, k, v, **changes)


def drawn_mask(heads: int) -> torch.Tensor:
    mask = torch.rand(B, heads, ROWS, ROWS, generator=torch.Generator().manual_seed(heads)) < 0.4
    return mask | torch.eye(ROWS, dtype=torch.bool)


def spelled(given: AttentionCall, mask: torch.Tensor) -> torch.Tensor:
    """The equation, one query at a time."""
    out = torch.zeros(B, H, T, K, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            g, own = h // (H // G), mask[b, h if mask.shape[1] == H else h // (H // G)]
            for i in range(T):
                read = [j for j in range(i + 1) if own[i // BLOCK, j // BLOCK]]
                weights = (given.k[b, g, read] @ given.q[b, h, i] / math.sqrt(K)).softmax(-1)
                out[b, h, i] = weights @ given.v[b, g, read]
    return out


def lm(**attention) -> TinyLM:
    spec = AttentionSpec(n_heads=4, n_kv_heads=2, head_dim=4, **attention)
    return TinyLM(LMConfig(11, 10, 2, spec, None, init_std=0.4), init_seed=0).double()


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, 11, (2, T), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("heads", [H, G])
def test_both_operators_read_the_blocks_of_the_mask_and_no_others(heads: int) -> None:
    mask = drawn_mask(heads)
    masked = call(blocks=BlockMask(mask, BLOCK))
    wanted = spelled(masked, mask)
    assert masked.plain()
    torch.testing.assert_close(core._output(masked), wanted)
    torch.testing.assert_close(gated_attention(**masked.arguments()), wanted)
    assert not torch.allclose(gated_attention(**call().arguments()), wanted, atol=1e-3)


class Watching(Handler):
    sites, stats = frozenset({"attention"}), frozenset({"entropy"})


def test_a_pass_takes_the_sparse_operator_unless_somebody_measures_and_gives_the_same(tokens, monkeypatch) -> None:
    model, sparse = lm(), SparseBlocks(MeanBlocks(), BlockRule("count", 3), BLOCK)
    ran = []
    monkeypatch.setattr(core, "block_sparse_attention", lambda *x, _run=core.block_sparse_attention, **options: (
        ran.append(x), _run(*x, **options))[1])  # fmt: skip
    with torch.no_grad(), sparse.on(model):
        fast = model(tokens)
    assert len(ran) == 2
    with torch.no_grad(), attached(model, sparse, Watching()):
        torch.testing.assert_close(model(tokens), fast)
    assert len(ran) == 2
    assert not torch.allclose(fast, model(tokens), atol=1e-3)


def test_probes_see_the_attention_that_is_left(tokens) -> None:
    model = lm()
    sparse = SparseBlocks(LatestBlocks(), BlockRule("count", 1), BLOCK)
    with torch.no_grad(), attached(model, sparse), Scope(model, [Entropy()]) as scope:
        model(tokens)
    with torch.no_grad(), Scope(model, [Entropy()]) as whole:
        model(tokens)
    assert (scope.record().entropy < whole.record().entropy).all()


@pytest.mark.parametrize("attention", [{"gate": GateSpec(position="sdpa")}, {"sink": "learned"}], ids=["gate", "sink"])
def test_what_else_a_model_does_to_attention_stays(attention, tokens) -> None:
    model = lm(**attention)
    whole = SparseBlocks(MeanBlocks(), BlockRule("share", 1.0), BLOCK)
    # Blocks of one token under the latest-first rule are a window with one sink token.
    window = SparseBlocks(LatestBlocks(), BlockRule("count", 6), 1)
    with torch.no_grad():
        with whole.on(model):
            torch.testing.assert_close(model(tokens), lm(**attention)(tokens))
        with window.on(model):
            found = model(tokens)
        with WindowWithSinks(5, 1).on(model):
            torch.testing.assert_close(model(tokens), found)


def test_padding_and_blocks_hold_together() -> None:
    padding = torch.ones(B, T, dtype=torch.bool)
    padding[:, 3] = False
    mask = drawn_mask(H)
    both = core._output(call(blocks=BlockMask(mask, BLOCK), key_mask=padding))
    given = call()
    given.k[:, :, 3], given.v[:, :, 3] = 0, 0
    given.q[..., 0], given.k[..., 0] = 1, 0
    other = call()
    other.q[..., 0], other.k[..., 0] = 1, 0
    other.k[:, :, 3] = 0
    other.k[:, :, 3, 0] = -1e4
    padded = AttentionCall(given.q, given.k, given.v, key_mask=padding, blocks=BlockMask(mask, BLOCK))
    torch.testing.assert_close(core._output(padded)[:, :, 4:], spelled(other, mask)[:, :, 4:])
    assert both.isfinite().all()


@torch.no_grad()
def test_the_control_reads_as_many_blocks_of_every_row_and_others(tokens) -> None:
    model, masks = lm(), {}
    for name, one in {
        "own": SparseBlocks(MeanBlocks(), BlockRule("threshold", 0.0), BLOCK),
        "best": SparseBlocks(BestBlocks(), BlockRule("threshold", 0.2), BLOCK),
        "control": SparseBlocks(BestBlocks(), BlockRule("threshold", 0.2), BLOCK).control(0),
        "again": SparseBlocks(BestBlocks(), BlockRule("threshold", 0.2), BLOCK).control(0),
        "other": SparseBlocks(BestBlocks(), BlockRule("threshold", 0.2), BLOCK).control(1),
    }.items():
        with one.on(model):
            model(tokens)
        masks[name] = one.read
    assert torch.equal(masks["control"][0], masks["again"][0])
    assert torch.equal(masks["control"][0].sum(-1), masks["best"][0].sum(-1))
    assert not torch.equal(masks["control"][0], masks["best"][0])
    assert not torch.equal(masks["control"][0], masks["other"][0])
    for mask in (masks["control"][0], masks["other"][1]):
        assert mask[..., 0].all()
        assert not mask.triu(1).any()


def test_the_oracle_reads_the_blocks_with_the_largest_weights() -> None:
    given, rule = call(), BlockRule("count", 3)
    target = block_max_attention(given.q, given.k, block=BLOCK, normalise=True)
    mass = {
        type(scores).__name__: float((SparseBlocks(scores, rule, BLOCK).chosen(given, 0) * target).sum(-1).mean())
        for scores in (BestBlocks(), MeanBlocks(), LatestBlocks())
    }
    assert mass["BestBlocks"] > max(mass["MeanBlocks"], mass["LatestBlocks"]) + 0.02
    q, k = (torch.stack([part.mean(2) for part in x.split(BLOCK, 2)], 2) for x in (given.q, given.k))
    wanted = q[:, 1, 5] @ k[:, 0, 2].T
    torch.testing.assert_close(MeanBlocks()(given, 0, BLOCK)[:, 1, 5, 2], wanted.diagonal())


def test_gates_of_a_model_learn_its_blocks_from_its_own_passes(tokens) -> None:
    model = lm().float().requires_grad_(False)
    with torch.no_grad():  # attention that is worth learning
        for block in model.blocks:
            block.attention.q_proj.weight *= 3
    attention = model.config.attention
    made = [
        BlockGates.of(attention, 2, block=2, width=8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)
    ]
    trained, fresh = made
    examples = BlockExamples(trained)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad(), attached(model, examples):
        model(torch.randint(0, 11, (24, T), generator=generator))
    assert len(examples) == 24
    optimiser = torch.optim.Adam(trained.parameters(), lr=2e-2)
    losses = []
    for step in range(60):
        optimiser.zero_grad()
        loss = examples.loss([(step * 8 + one) % 24 for one in range(8)])
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]

    def mass(scores) -> float:
        held_out, sparse = BlockExamples(trained), SparseBlocks(scores, BlockRule("count", 4), 2)
        with torch.no_grad(), attached(model, held_out), sparse.on(model):
            model(torch.randint(0, 11, (4, T), generator=torch.Generator().manual_seed(9)))
        found = [
            float((sparse.read[0][one] * held_out._kept[0][one][2][0]).sum(-1).mean()) for one in range(len(held_out))
        ]
        return sum(found) / len(found)

    best = mass(BestBlocks())
    assert best - mass(trained) < 0.75 * (best - max(mass(fresh), mass(LatestBlocks())))


def test_refusals(tokens) -> None:
    with pytest.raises(Refusal, match="as many key blocks as query blocks"):
        BlockMask(torch.ones(1, 1, 2, 3, dtype=torch.bool), 4)
    with pytest.raises(Refusal, match="query blocks that read themselves"):
        BlockMask(torch.zeros(1, 1, 2, 2, dtype=torch.bool), 4)
    with pytest.raises(Refusal, match="a mask for each query or key-value head"):
        call(blocks=BlockMask(torch.ones(B, H, 2, 2, dtype=torch.bool), BLOCK)).arguments()
    with pytest.raises(Refusal, match="a block of 1 token or more"):
        SparseBlocks(MeanBlocks(), BlockRule("count", 1), 0)
    sparse = SparseBlocks(MeanBlocks(), BlockRule("count", 1), BLOCK)
    with pytest.raises(Refusal, match="causal attention over one whole sequence"):
        sparse.edit("attention", 0, call(visibility=Visibility(causal=False)))
    with pytest.raises(Refusal, match="an intervention, got a control"):
        sparse.control(0).control(1)
    gates = BlockGates.of(AttentionSpec(n_heads=4, n_kv_heads=2, head_dim=4), 1, block=2, width=4)
    for block in (2, 4):
        wrong = SparseBlocks(gates, BlockRule("count", 1), block)
        model = lm().float()
        with pytest.raises(Refusal, match=r"layers 0\.\.0 in blocks of 2"), wrong.on(model):
            model(tokens)
    with pytest.raises(Refusal, match="some of the sequences that passed, got"):
        BlockExamples(gates).loss([0])
