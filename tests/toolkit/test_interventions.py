"""Interventions: what they change, that their controls change as much elsewhere, and that none is ever silent."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gatescope.errors import Refusal, UntappableModelError
from gatescope.gates import GateSpec
from gatescope.interventions import (
    INTERVENTIONS,
    AddSink,
    BlendGates,
    ClampDims,
    Draw,
    DropExperts,
    MaskKeys,
    MeanBlocks,
    RandomExperts,
    ScaleLogits,
    SetDims,
    ShiftQueries,
    ShuffledGates,
    SparseBlocks,
    WindowWithSinks,
    ZeroDims,
)
from gatescope.layers import AttentionSpec, BlockRule, MLPSpec, MoESpec
from gatescope.models import LMConfig, TinyLM
from gatescope.probes import Routing, Sinks
from gatescope.taps import AttentionCall, GateScores, Handler, RouterScores, attached
from gatescope_kernels import Visibility, gated_attention

D, T, LAYERS = 16, 9, 3
G1 = GateSpec(position="sdpa")
ADDED = GateSpec(position="sdpa", combine="add", activation="silu")
MAKERS = {
    "zero_dims": lambda: ZeroDims([3, 7], after_layers=1),
    "clamp_dims": lambda: ClampDims([3, 7], after_layers=[0, 1], limit=0.01),
    "set_dims": lambda: SetDims([3, 7], after_layers=[0, 1], value=5.0),
    "mask_keys": lambda: MaskKeys([0, 2]),
    "window_with_sinks": lambda: WindowWithSinks(window=3, sink_tokens=1),
    "blend_gates": lambda: BlendGates(0.3, layers=1),
    "add_sink": lambda: AddSink(3.0, heads=[0, 2], layers=1),
    "drop_experts": lambda: DropExperts([0, 1], layers=1),
    "scale_logits": lambda: ScaleLogits(3.0, layers=1),
    "sparse_blocks": lambda: SparseBlocks(MeanBlocks(), BlockRule("count", 4), block=1, layers=1),
}
DENSE, EXPERTS = MLPSpec(kind="gelu", hidden=24), MoESpec(experts=6, k=2, hidden=12)


def lm(gate=G1, mlp=DENSE, sink=None):
    attention = AttentionSpec(n_heads=4, n_kv_heads=2, head_dim=8, gate=gate, sink=sink)
    return TinyLM(LMConfig(vocab=19, d_model=D, n_layers=LAYERS, attention=attention, mlp=mlp))


class Seen(Handler):
    """What passed at one site, by layer."""

    def __init__(self, site):
        self.sites, self.values = frozenset({site}), {}

    def watch(self, event):
        self.values[event.layer] = event.value


def seen_with(model, tokens, site, *interventions, **given):
    watcher = Seen(site)
    with attached(model, *interventions, watcher):
        model(tokens, **given)
    return watcher.values


@pytest.fixture
def model():
    return lm()


@pytest.fixture
def tokens():
    return torch.randint(19, (2, T), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=list(INTERVENTIONS))
def intervention(request):
    return MAKERS[request.param]()


class TestEvery:
    @pytest.fixture
    def model(self):
        model = lm(mlp=EXPERTS)
        with torch.no_grad():
            for block in model.blocks:
                block.mlp.w_down *= 50  # so that what experts do shows
        return model

    def test_the_table_has_every_intervention(self, intervention):
        assert type(intervention) is INTERVENTIONS[intervention.name]
        row = intervention.describe()
        assert set(row) == {"intervention", "site", "equation", "control"}
        assert all(row.values())

    def test_it_changes_the_output_and_leaves_the_model_as_it_was(self, intervention, model, tokens):
        before = model(tokens)
        with intervention.on(model) as attached_one:
            assert attached_one is intervention
            assert not torch.allclose(model(tokens), before)
        assert torch.equal(model(tokens), before)

    def test_its_control_changes_something_else(self, intervention, model, tokens):
        with intervention.on(model):
            changed = model(tokens)
        with intervention.control(0).on(model):
            control = model(tokens)
        assert not torch.allclose(control, changed)
        assert not torch.allclose(control, model(tokens))

    def test_a_control_is_repeatable(self, intervention, model, tokens):
        outputs = []
        for _ in range(2):
            with intervention.control(5).on(model):
                outputs.append(model(tokens))
        assert torch.equal(*outputs)

    def test_gradients_flow_through_it(self, intervention, model, tokens):
        with intervention.on(model):
            model(tokens).square().sum().backward()
        assert model.embed.weight.grad.abs().sum() > 0

    def test_a_block_without_a_pass_is_refused(self, intervention, model):
        name = type(intervention).__name__
        with (
            pytest.raises(Refusal, match=rf"^{name}: wanted .*, got none: nothing was changed; call the TinyLM in the"),
            intervention.on(model),
        ):
            pass

    def test_layers_the_model_lacks_are_refused(self, intervention, model, tokens):
        layers = "after_layers" if hasattr(intervention, "after_layers") else "layers"
        beyond = replace(intervention, **{layers: [1, 7]})
        name = type(intervention).__name__
        with (
            pytest.raises(
                Refusal, match=rf"^{name}: wanted to change layers \[7\] of TinyLM, got only layers \[0, 1, 2\]"
            ),
            beyond.on(model),
        ):
            model(tokens)

    def test_an_error_in_the_block_is_not_hidden(self, intervention, model):
        with pytest.raises(KeyboardInterrupt), intervention.on(model):
            raise KeyboardInterrupt
        assert "forward" not in model.__dict__

    def test_a_model_without_the_site_is_refused(self, intervention):
        class Bare(torch.nn.Module):
            tap_sites = frozenset({"tokens"})

        name = type(intervention).__name__
        with pytest.raises(UntappableModelError, match=rf"^{name}: wanted sites \["), intervention.on(Bare()):
            pass

    def test_it_can_be_used_again(self, intervention, model, tokens):
        for _ in range(2):
            with intervention.on(model):
                model(tokens)
        with pytest.raises(Refusal, match="nothing was changed"), intervention.on(model):
            pass


class TestDims:
    def test_zeroed_where_told_and_nowhere_else(self, model, tokens):
        plain = seen_with(model, tokens, "resid")
        changed = seen_with(model, tokens, "resid", ZeroDims([3, 7], after_layers=1))
        want = plain[1].clone()
        want[..., [3, 7]] = 0
        assert torch.equal(changed[0], plain[0])
        assert torch.equal(changed[1], want)

    def test_positions_limit_it(self, model, tokens):
        plain = seen_with(model, tokens, "resid")[0].clone()
        plain[:, [0, 4], 5] = 0
        changed = seen_with(model, tokens, "resid", ZeroDims(5, after_layers=0, positions=[0, 4]))[0]
        assert torch.equal(changed, plain)

    def test_none_means_all_layers(self, model, tokens):
        changed = seen_with(model, tokens, "resid", ZeroDims([2], after_layers=None))
        assert all((changed[layer][..., 2] == 0).all() for layer in range(LAYERS))

    def test_set_to_the_value_and_nothing_else(self, model, tokens):
        before = seen_with(model, tokens, "resid")
        want = before[0].clone()
        want[:, 4, 5] = -7.5
        after = seen_with(model, tokens, "resid", SetDims([5], after_layers=0, value=-7.5, positions=4))
        assert torch.equal(after[0], want)
        assert not torch.equal(after[1], before[1])
        with pytest.raises(Refusal, match="SetDims: wanted a finite value, got nan"):
            SetDims([5], after_layers=0, value=float("nan"))

    def test_clamped_to_the_limit(self, model, tokens):
        plain = seen_with(model, tokens, "resid")[0]
        changed = seen_with(model, tokens, "resid", ClampDims([1, 2], after_layers=0, limit=0.01))[0]
        want = plain.clone()
        want[..., [1, 2]] = want[..., [1, 2]].clamp(-0.01, 0.01)
        assert torch.equal(changed, want)
        assert not torch.equal(changed, plain)

    def test_the_control_zeroes_as_many_other_dims_at_the_same_places(self, model, tokens):
        plain = seen_with(model, tokens, "resid")[1]
        drawn = set()
        for seed in range(20):
            control = ZeroDims([3, 7], after_layers=1, positions=[2]).control(seed)
            zeroed = (seen_with(model, tokens, "resid", control)[1] == 0) & (plain != 0)
            assert zeroed[:, 2].sum(-1).tolist() == [2, 2]
            assert zeroed.sum() == 4
            drawn |= set(zeroed[0, 2].nonzero().flatten().tolist())
        assert not drawn & {3, 7}
        assert len(drawn) > 10

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: ZeroDims([], 0), r"ZeroDims: wanted dims: different indices from 0 on, at least one, got \[\]"),
            (lambda: ZeroDims([1, 1], 0), r"got \[1, 1\]; name each once"),
            (lambda: ZeroDims([-1], 0), r"got \[-1\]; name each once"),
            (lambda: ZeroDims([1], -1), r"ZeroDims: wanted after_layers: .*, got \[-1\]"),
            (lambda: ZeroDims([1], 0, positions=[]), r"ZeroDims: wanted positions: .*, got \[\]"),
            (lambda: ClampDims([1], 0, 0), r"ClampDims: wanted a positive finite limit, got 0; use ZeroDims"),
            (lambda: ClampDims([1], 0, float("nan")), r"ClampDims: wanted a positive finite limit, got nan"),
            (
                lambda: ZeroDims([1], 0).control(0).control(1),
                r"ZeroDims.control: wanted an intervention, got a control",
            ),
        ],
    )
    def test_indices_are_checked(self, make, message):
        with pytest.raises(Refusal, match=message):
            make()

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"dims": [D]}, r"ZeroDims: wanted dims below 16, got \[16\]; choose among 0..15"),
            ({"positions": [T, 0]}, r"ZeroDims: wanted positions below 9, got \[9\]; choose among 0..8"),
            ({"dims": Draw(2, (40,), 0)}, r"ZeroDims: wanted dims below 16, got \[40\]"),
            ({"dims": Draw(9, tuple(range(9)), 0)}, r"ZeroDims.control: wanted 9 others to draw from, got 7 of 16"),
        ],
    )
    def test_indices_beyond_the_model_are_refused_on_first_use(self, model, tokens, given, message):
        with pytest.raises(Refusal, match=message), replace(ZeroDims([1], after_layers=0), **given).on(model):
            model(tokens)


class TestMaskKeys:
    def test_nobody_reads_the_key(self, model, tokens):
        calls = seen_with(model, tokens, "attention", MaskKeys([0, 2], layers=1))
        assert calls[0].key_mask is None
        assert calls[1].key_mask.tolist() == [[False, True, False, *[True] * 6]] * 2

    def test_padding_stays_hidden(self, model, tokens):
        mask = torch.ones(2, T, dtype=torch.bool)
        mask[1, 6:] = False
        call = seen_with(model, tokens, "attention", MaskKeys([0]), key_mask=mask)[0]
        assert call.key_mask.sum(-1).tolist() == [8, 5]
        assert mask.sum() == 15

    def test_the_control_hides_another_key_but_never_the_first_or_padding(self, model, tokens):
        mask = torch.ones(2, T, dtype=torch.bool)
        mask[1, 6:] = False
        for given in (None, mask):
            drawn = set()
            for seed in range(30):
                call = seen_with(model, tokens, "attention", MaskKeys([3]).control(seed), key_mask=given)[0]
                drawn |= set((~call.key_mask[0]).nonzero().flatten().tolist())
            assert drawn == set(range(T if given is None else 6)) - {0, 3}

    def test_all_layers_of_a_control_hide_the_same_key(self, model, tokens):
        calls = seen_with(model, tokens, "attention", MaskKeys([3]).control(1))
        assert all(torch.equal(calls[layer].key_mask, calls[0].key_mask) for layer in range(LAYERS))

    def test_a_key_beyond_the_sequence_is_refused(self, model, tokens):
        with pytest.raises(Refusal, match=r"MaskKeys: wanted keys below 9, got \[9\]"), MaskKeys([9]).on(model):
            model(tokens)


class TestWindow:
    def test_the_view_narrows(self, model, tokens):
        calls = seen_with(model, tokens, "attention", WindowWithSinks(3, 1, layers=[0, 2]))
        assert [calls[layer].visibility.window for layer in range(LAYERS)] == [3, None, 3]
        assert calls[0].visibility == Visibility(window=3, sink_tokens=1)

    def test_a_window_over_everything_changes_nothing(self, model, tokens):
        plain = model(tokens)
        with WindowWithSinks(T, 0).on(model):
            torch.testing.assert_close(model(tokens), plain)

    def test_the_control_spends_as_many_keys_on_the_past(self):
        control = WindowWithSinks(6, 2, layers=1).control(0)
        assert (control.window, control.sink_tokens, control.layers) == (8, 0, (1,))

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: WindowWithSinks(0, 1), "wanted window >= 1"),
            (lambda: WindowWithSinks(2, -1), "wanted sink_tokens >= 0"),
            (
                lambda: WindowWithSinks(4, 0).control(0),
                r"WindowWithSinks.control: wanted sink_tokens >= 1, .*, got sink_",
            ),
        ],
    )
    def test_sizes_are_checked(self, make, message):
        with pytest.raises(Refusal, match=message):
            make()

    def test_it_never_widens(self):
        x = torch.randn(1, 1, 5, 4)
        call = AttentionCall(x, x, x, visibility=Visibility(window=2))
        with pytest.raises(
            Refusal, match=r"got window 4 over the model's own window 2 in layer 0; choose a window of 2 or"
        ):
            WindowWithSinks(4, 0).edit("attention", 0, call)


class TestBlendGates:
    @pytest.mark.parametrize(("gate", "identity"), [(G1, 1.0), (ADDED, 0.0)], ids=["multiply", "add"])
    def test_scores_blend_towards_the_identity(self, gate, identity, tokens):
        model = lm(gate)
        plain = seen_with(model, tokens, "gate")
        changed = seen_with(model, tokens, "gate", BlendGates(0.25, layers=0))
        torch.testing.assert_close(changed[0].scores, 0.75 * identity + 0.25 * plain[0].scores)
        assert not torch.equal(changed[0].scores, plain[0].scores)

    @pytest.mark.parametrize("gate", [G1, ADDED, GateSpec(position="value"), GateSpec(position="output")], ids=repr)
    def test_amount_0_is_the_model_without_its_gate(self, gate, tokens):
        gated, bare = lm(gate), lm(None)
        bare.load_state_dict({name: weight for name, weight in gated.state_dict().items() if ".gate." not in name})
        with BlendGates(0).on(gated):
            torch.testing.assert_close(gated(tokens), bare(tokens))

    def test_amount_1_is_the_model_as_it_is(self, model, tokens):
        plain = model(tokens)
        with BlendGates(1).on(model):
            assert torch.equal(model(tokens), plain)

    def test_the_control_has_the_same_scores_at_other_tokens(self, model, tokens):
        plain = seen_with(model, tokens, "gate")[0].scores
        shuffled = seen_with(model, tokens, "gate", BlendGates(1.0).control(0))[0].scores
        assert not torch.equal(shuffled, plain)
        torch.testing.assert_close(shuffled.sort(2).values, plain.sort(2).values)
        # One permutation for all heads and channels of a sequence, another for the next sequence.
        order = [(shuffled[b, 0, :, None, 0] == plain[b, 0, None, :, 0]).float().argmax(-1) for b in range(2)]
        assert torch.equal(shuffled[0], plain[0][:, order[0]])
        assert not torch.equal(*order)

    @pytest.mark.parametrize("amount", [-0.1, 1.1, float("nan")])
    def test_amounts_are_checked(self, amount):
        with pytest.raises(Refusal, match=r"BlendGates: wanted an amount from 0 \(off\) to 1 \(learned\), got"):
            BlendGates(amount)

    @pytest.mark.parametrize(("length", "got"), [(1, "a single token"), (5, "the same for all tokens")])
    def test_a_control_that_would_change_nothing_is_refused(self, length, got):
        scores = GateScores(torch.full((1, 2, length, 1), 0.3), "sdpa")
        with pytest.raises(
            Refusal, match=rf"BlendGates.control: wanted scores that differ .*, got {got}; use a longer"
        ):
            BlendGates(1.0).control(0).edit("gate", 0, scores)

    def test_a_control_has_no_control(self):
        control = BlendGates(0.5).control(0)
        assert isinstance(control, ShuffledGates)
        with pytest.raises(Refusal, match=r"BlendGates.control: wanted an intervention, got a control"):
            control.control(1)

    def test_an_ungated_model_is_refused(self, tokens):
        with (
            pytest.raises(
                UntappableModelError, match=r"BlendGates: wanted sites \['gate'\], got TinyLM, which does not"
            ),
            BlendGates(0.5).on(lm(None)),
        ):
            pass


def test_interventions_add_up(model, tokens):
    with ZeroDims([1], after_layers=0).on(model), ZeroDims([2], after_layers=0).on(model):
        both = seen_with(model, tokens, "resid")[0]
    assert (both[..., [1, 2]] == 0).all()


def test_a_draw_is_the_same_for_the_same_seed():
    assert Draw(3, (0,), 4).among(range(50), "x") == Draw(3, (0,), 4).among(range(50), "x")
    assert Draw(3, (0,), 4).among(range(50), "x") != Draw(3, (0,), 5).among(range(50), "x")


class TestDropExperts:
    @pytest.fixture
    def model(self):
        return lm(mlp=EXPERTS)

    @pytest.mark.parametrize("renormalise", [True, False])
    def test_the_others_keep_the_sum_or_their_weights(self, model, tokens, renormalise):
        plain = seen_with(model, tokens, "router")[0]
        drop = DropExperts([0, 3], layers=0, renormalise=renormalise)
        weight = seen_with(model, tokens, "router", drop)[0].weight
        for b in range(2):
            for t in range(T):
                own = dict(zip(plain.index[b, t].tolist(), plain.weight[b, t].tolist(), strict=True))
                kept = {expert: w for expert, w in own.items() if expert not in (0, 3)}
                grow = sum(own.values()) / sum(kept.values()) if kept and renormalise else 1.0
                want = [kept.get(expert, 0.0) * grow for expert in plain.index[b, t].tolist()]
                assert weight[b, t].tolist() == pytest.approx(want)

    def test_nobody_visits_a_dropped_expert(self, model, tokens):
        probe = Routing()
        with DropExperts([0, 3], layers=[0, 2]).on(model), attached(model, probe):
            model(tokens)
        dead = probe.finalize().expert_dead
        assert dead.sel(layer=[0, 2], expert=[0, 3]).all()
        assert not dead.sel(layer=1).all()

    def test_all_dropped_leaves_the_stream_as_attention_left_it(self, model, tokens):
        updates = seen_with(model, tokens, "mlp_update", DropExperts(range(6), layers=1))
        assert (updates[1] == 0).all()
        assert (updates[0] != 0).any()

    @pytest.fixture
    def uneven(self):
        """Eight experts, visited 1, 2, ..., 8 times."""
        index = torch.repeat_interleave(torch.arange(8), torch.arange(1, 9)).view(1, -1, 1)
        p = torch.full((1, 36, 8), 1 / 8)
        return RouterScores(p.log(), p, index, torch.ones(1, 36, 1), "softmax")

    def test_the_control_drops_others_of_about_the_same_load(self, uneven):
        drawn = set()
        for seed in range(30):
            control = DropExperts([1, 6]).control(seed)
            weight = control.edit("router", 0, uneven).weight
            gone = sorted({int(e) for e, w in zip(uneven.index.flatten(), weight.flatten(), strict=True) if w == 0})
            assert len(gone) == 2
            assert not set(gone) & {1, 6}
            # Expert 1 is visited 2 times, expert 6 seven times; the two nearest of each stand beside them.
            assert gone[0] in (0, 2)
            assert gone[1] in (5, 7)
            drawn |= set(gone)
        assert drawn == {0, 2, 5, 7}

    def test_the_control_keeps_its_experts_over_passes_and_draws_anew_in_a_block(self, model, tokens):
        control = DropExperts([0, 3]).control(0)
        probe = Routing()
        with control.on(model), attached(model, probe):
            model(tokens)
            first = dict(control._drawn)
            model((tokens + 5) % 19)
            assert control._drawn == first
        dead = probe.finalize().expert_dead
        for layer, experts in first.items():
            assert dead.sel(layer=layer, expert=list(experts)).all()
        assert len(set(first.values())) > 1

    def test_a_control_has_no_control(self):
        control = DropExperts([0]).control(0)
        assert isinstance(control, RandomExperts)
        with pytest.raises(Refusal, match=r"DropExperts.control: wanted an intervention, got a control"):
            control.control(1)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: DropExperts([9]), r"DropExperts: wanted experts below 6, got \[9\]"),
            (lambda: DropExperts([0, 1, 2, 3]).control(0), r"wanted 4 others to draw from, got 2 of 6"),
        ],
    )
    def test_experts_beyond_the_layer_are_refused(self, model, tokens, make, message):
        with pytest.raises(Refusal, match=message), make().on(model):
            model(tokens)


class TestAddSink:
    @pytest.mark.parametrize("sink", [None, "learned", "off_by_one"])
    def test_it_takes_its_share_in_the_chosen_heads_alone(self, tokens, sink):
        model, probe = lm(sink=sink), Sinks()
        plain = seen_with(model, tokens, "attention")[0]
        with AddSink(1.5, heads=[1, 3], layers=0).on(model), attached(model, probe):
            model(tokens)
        q, k = plain.q, plain.k.repeat_interleave(2, 1)
        scores = (q @ k.mT / 8**0.5).masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf).exp()
        own = torch.tensor(0.0 if sink is None else 1.0)
        outside = own + torch.tensor([0, 1, 0, 1])[None, :, None] * torch.tensor(1.5).exp()
        want = (outside / (outside + scores.sum(-1))).mean((0, 2))
        found = torch.tensor(probe.finalize().sink_mass.sel(layer=0).values, dtype=torch.float32)
        torch.testing.assert_close(found, want)

    def test_it_is_the_models_own_sink(self, tokens):
        plain, off_by_one = lm(), lm(sink="off_by_one")
        with AddSink(0.0).on(plain):
            torch.testing.assert_close(plain(tokens), off_by_one(tokens))

    def test_it_can_be_learned(self, model, tokens):
        logit = torch.zeros(2, requires_grad=True)
        with AddSink(logit, heads=[0, 2]).on(model):
            model(tokens).square().sum().backward()
        assert (logit.grad != 0).all()

    def test_the_control_gives_the_same_sinks_to_other_heads(self, model, tokens):
        drawn = set()
        for seed in range(12):
            control = AddSink(torch.tensor([1.0]), heads=[2]).control(seed)
            call = seen_with(model, tokens, "attention", control)[0]
            heads = (call.sink > -100).nonzero().flatten().tolist()
            assert call.sink[heads].tolist() == [1.0]
            drawn |= set(heads)
        assert drawn == {0, 1, 3}

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: AddSink(float("inf")), "AddSink: wanted a finite logit, got inf"),
            (lambda: AddSink(0.0).control(0), r"AddSink.control: wanted chosen heads, .*, got all heads"),
            (
                lambda: AddSink(0.0, [0]).control(0).control(1),
                "AddSink.control: wanted an intervention, got",
            ),
            (lambda: AddSink(0.0, [4]), r"AddSink: wanted heads below 4, got \[4\]"),
            (lambda: AddSink(torch.zeros(3), [0, 1]), r"one logit for each of 2 heads, got \(3,\)"),
            (lambda: AddSink(0.0, [0, 1, 2]).control(0), "wanted 3 others to draw from, got 1 of 4"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, model, tokens, make, message):
        with pytest.raises(Refusal, match=message), make().on(model):
            model(tokens)


class TestScaleLogits:
    def test_it_scales_the_logits_of_the_chosen_layer(self, model, tokens):
        plain, changed = (seen_with(model, tokens, "attention", *given) for given in ([], [ScaleLogits(3.0, layers=1)]))
        assert changed[0].scale == plain[0].scale
        q, k, v = plain[1].q, plain[1].k.repeat_interleave(2, 1), plain[1].v.repeat_interleave(2, 1)
        scores = (3.0 * q @ k.mT / 8**0.5).masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)
        want = gated_attention(q=changed[1].q, k=changed[1].k, v=changed[1].v, scale=changed[1].scale)
        torch.testing.assert_close(want, scores.softmax(-1) @ v)

    def test_one_changes_nothing(self, model, tokens):
        with ScaleLogits(1.0).on(model):
            changed = model(tokens)
        torch.testing.assert_close(changed, model(tokens))

    def test_the_control_moves_queries_as_far(self, model, tokens):
        control = ScaleLogits(3.0, layers=1).control(0)
        plain, moved = (seen_with(model, tokens, "attention", *given)[1].q.detach() for given in ([], [control]))
        torch.testing.assert_close((moved - plain).norm(dim=-1), 2.0 * plain.norm(dim=-1))
        cosine = torch.cosine_similarity(moved - plain, plain, dim=-1)
        assert abs(float(cosine.mean())) < 0.15
        assert isinstance(ScaleLogits(0.5).control(1), ShiftQueries)

    @pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), float("inf")])
    def test_what_does_not_fit_is_refused(self, beta):
        with pytest.raises(Refusal, match="ScaleLogits: wanted a finite beta above 0"):
            ScaleLogits(beta)
        with pytest.raises(Refusal, match="got a control"):
            ScaleLogits(2.0).control(0).control(1)
