"""Hugging Face models: what is left behind (nothing), caches, packing, and what is refused in which words."""

from __future__ import annotations

import copy

import pytest
import torch
from gatescope.errors import Refusal, UntappableModelError
from gatescope.interventions import MaskKeys
from gatescope.probes import Entropy, Massive, Sinks
from gatescope.scope import Scope
from gatescope.taps import Handler, attached, shown
from gatescope_kernels import Visibility
from taps.oracle import check_attention, eager
from taps.tiny import CONFIGS, Recorder, model_of, tokens_of
from torch import nn


@pytest.fixture
def model():
    return model_of("llama")


@pytest.fixture
def tokens():
    return tokens_of(2, 9)


def traces(model):
    """What attaching could leave behind: forwards, hooks, the name of the attention."""
    return [
        (
            name,
            "forward" in module.__dict__,
            len(module._forward_hooks) + len(module._forward_pre_hooks),
            getattr(getattr(module, "config", None), "_attn_implementation", None),
        )
        for name, module in model.named_modules()
    ]


class Failing(Handler):
    sites = frozenset({"resid"})

    def __init__(self, error):
        self.error = error

    def watch(self, event):
        if event.layer == 1:
            raise self.error


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()], ids=repr)
def test_nothing_is_left_behind_when_a_handler_fails(model, tokens, error):
    before, expected = traces(model), model(tokens).logits
    with pytest.raises(type(error)), attached(model, Failing(error), Recorder(shown(model))):
        model(tokens)
    assert traces(model) == before
    assert torch.equal(model(tokens).logits, expected)


def test_a_pass_that_fails_does_not_disturb_the_next(model, tokens):
    before = traces(model)
    with Scope(model, [Sinks(), Massive()]) as scope:
        with pytest.raises(IndexError):
            model(tokens + 1000)
        model(tokens)
    assert traces(model) == before
    assert scope.record().attrs["n_tokens"] == 18


def test_scopes_nest_and_can_be_entered_again(model, tokens):
    before = traces(model)
    outer, inner = Scope(model, [Sinks()]), Scope(model, [Entropy()])
    with outer:
        with inner:
            model(tokens)
        assert model.config._attn_implementation == "gatescope"
        model(tokens)
    with inner:
        model(tokens)
    assert traces(model) == before
    assert [scope.record().attrs["n_samples"] for scope in (outer, inner)] == [4, 4]


@pytest.mark.parametrize("first", ["whole", "part"])
def test_a_part_and_the_whole_are_seen_once_each(model, tokens, first):
    before = traces(model)
    whole, part = Recorder(shown(model)), Recorder(shown(model.model))
    one, two = attached(model, whole), attached(model.model, part)
    opened = (one, two) if first == "whole" else (two, one)
    for block in opened:
        block.__enter__()
    model(tokens)
    for block in opened:  # the first to open is the first to close
        block.__exit__(None, None, None)
    assert traces(model) == before
    for seen, sites in ((whole, shown(model)), (part, shown(model.model))):
        found = [(event.site, event.layer) for event in seen.events]
        assert len(set(found)) == len(found)
        assert {site for site, _ in found} == sites


def test_models_that_share_a_config_are_told_apart(tokens):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("llama", **CONFIGS["llama"])
    one, two = (AutoModelForCausalLM.from_config(config) for _ in range(2))
    one.config = two.config = one.model.config = two.model.config = config
    before = traces(one)
    first, second = attached(one, Recorder({"attention"})), attached(two, seen := Recorder({"attention"}))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    two(tokens)
    second.__exit__(None, None, None)
    assert len(seen.events) == 3
    assert traces(one) == before


def test_gradients_are_the_same_with_and_without(tokens):
    def gradients(watched):
        model = copy.deepcopy(model_of("gpt_oss"))
        with Scope(model, [Sinks(), Entropy()] if watched else [Massive()]):
            model(tokens, labels=tokens).loss.backward()
        return [parameter.grad for parameter in model.parameters()]

    for watched, plain in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(watched, plain, rtol=1e-4, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_as_near_to_float32_as_eager_attention_is(model, tokens, autocast):
    expected = model(tokens).logits
    low = model if autocast else copy.deepcopy(model).bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        eagerly = low(tokens).logits.float()
        with Scope(low, [Sinks(), Entropy()]) as scope:
            watched = low(tokens).logits.float()
    assert scope.record().attrs["n_tokens"] == 18
    assert (watched - expected).abs().mean() < 1.2 * (eagerly - expected).abs().mean()


@torch.no_grad()
def test_packed_position_ids_are_documents(model, tokens):
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1], [0, 1, 0, 1, 2, 3, 4, 5, 6]])
    for name in ("llama", "mistral"):
        model = model_of(name)
        expected, matrices = eager(model, tokens, position_ids=positions, use_cache=False)
        seen = Recorder({"attention"})
        seen.stats = frozenset({"entropy", "key_mass", "max_logit"})
        with attached(model, seen):
            output = model(tokens, position_ids=positions, use_cache=False)
        torch.testing.assert_close(output.logits, expected.logits, rtol=1e-5, atol=1e-5)
        for event, A in zip(seen.events, matrices, strict=True):
            assert event.value.documents.tolist() == [[0] * 4 + [1] * 3 + [2] * 2, [0] * 2 + [1] * 7]
            torch.testing.assert_close(event.stats.key_mass, A.sum(2), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(event.stats.entropy, -torch.special.xlogy(A, A).sum(-1), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_a_static_cache_is_read_as_far_as_it_is_filled(family, tokens):
    from transformers import StaticCache

    model = model_of(family)
    for part in ((tokens[:, :6], tokens[:, 6:7], tokens[:, 7:]),):
        plain, watched = (StaticCache(config=model.config, max_cache_len=16) for _ in range(2))
        for piece in part:
            expected, matrices = eager(model, piece, cache=plain)
            seen = Recorder({"attention"})
            seen.stats = frozenset({"entropy", "max_logit"})  # a sliding layer has dropped keys by the end
            with attached(model, seen):
                output = model(piece, cache=watched)
            torch.testing.assert_close(output.logits, expected.logits, rtol=1e-5, atol=1e-5)
            for event, A in zip(seen.events, matrices, strict=True):
                entropy = -torch.special.xlogy(A, A).sum(-1)
                if event.value.sink is not None:
                    sink = (1 - A.sum(-1)).clamp(min=0)
                    entropy = entropy - torch.special.xlogy(sink, sink)
                torch.testing.assert_close(event.stats.entropy, entropy, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_generation_is_watched_token_by_token(model, tokens):
    mask = torch.ones_like(tokens)
    settings = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False}
    expected = model.generate(tokens, **settings)
    with Scope(model, [Entropy(), Sinks()]) as scope:
        assert torch.equal(model.generate(tokens, **settings), expected)
    assert scope.record().attrs["n_tokens"] == 2 * (9 + 3)


@torch.no_grad()
def test_a_sliding_cache_that_dropped_keys_still_has_entropy(tokens):
    from transformers import DynamicCache

    model = model_of("mistral")
    cache = DynamicCache(config=model.config)
    with Scope(model, [Entropy()]) as scope:
        model(tokens, cache=cache)
        model(tokens[:, :1], cache=cache)
    assert scope.record().attrs["n_tokens"] == 20
    message = (
        r"Sinks: wanted keys that can be counted from the first token in MistralAttention of layer 0, got a sliding"
    )
    with pytest.raises(UntappableModelError, match=message), Scope(model, [Sinks()]):
        model(tokens[:, :1], cache=cache)


@torch.no_grad()
@pytest.mark.parametrize("labels", [False, True])
def test_logits_are_found_in_tuples(model, tokens, labels):
    given = {"labels": tokens} if labels else {}
    with attached(model, seen := Recorder({"logits"})):
        output = model(tokens, return_dict=False, **given)
    assert seen.at("logits")[None] is output[int(labels)]


@torch.no_grad()
def test_hidden_keys_are_hidden_in_a_foreign_model(model, tokens):
    with MaskKeys(0).on(model), attached(model, seen := Recorder({"attention"})):
        model(tokens)
    assert all((event.stats.mass == 0).all() for event in seen.events)
    assert [event.value.visibility for event in seen.events] == [Visibility()] * 3


@torch.no_grad()
def test_left_padding_is_refused_by_probes_of_first_tokens_alone(model, tokens):
    mask = torch.ones_like(tokens)
    mask[0, :3] = 0
    with Scope(model, [Entropy(), Massive()]) as scope:
        model(tokens, attention_mask=mask)
    assert scope.record().attrs["n_tokens"] == 15
    with (
        pytest.raises(Refusal, match=r"Sinks: wanted text at the chosen keys .* pad on the right"),
        Scope(model, [Sinks()]),
    ):
        model(tokens, attention_mask=mask)


@torch.no_grad()
def test_a_model_without_a_row_shows_its_attention(tokens):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("qwen2", **CONFIGS["llama"])
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    assert shown(model) == {"tokens", "key_mask", "attention"}
    expected, matrices = eager(model, tokens)
    with attached(model, seen := Recorder({"attention"})):
        torch.testing.assert_close(model(tokens).logits, expected.logits)
    for event, A in zip(seen.events, matrices, strict=True):
        check_attention(event, A)
    message = r"Massive: wanted sites \['resid'\], got Qwen2ForCausalLM, which does not show \['resid'\]; add a row"
    with pytest.raises(UntappableModelError, match=message), Scope(model, [Massive()]):
        pass


def dropping(model, tokens):
    model = copy.deepcopy(model)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    with attached(model.train(), Recorder({"attention"})):
        model(tokens)


def checkpointing(model, tokens):
    model = copy.deepcopy(model).train()
    model.activation_checkpointing_enable()
    with attached(model, Recorder({"attention"})), torch.no_grad():
        model(tokens, use_cache=False)
    watching(model, tokens, use_cache=False)


def watching(model, *args, **kwargs):
    with attached(model, Recorder({"attention"})):
        model(*args, **kwargs)


def editing_loss(model, tokens):
    class Double(Handler):
        sites = frozenset({"logits"})

        def edit(self, site, layer, value):
            return 2 * value

    with attached(model, Double()):
        model(tokens, labels=tokens)


def biased(model, tokens):
    watching(model, tokens, attention_mask=0.5 * torch.ones(2, 1, 9, 9))


class Wrapper(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.inner = model


REFUSALS = {
    "matrices": (
        lambda model, tokens: watching(model, tokens, output_attentions=True),
        r"LlamaForCausalLM without output_attentions, .*; leave it out: probes read statistics",
    ),
    "dropout": (
        dropping,
        r"LlamaAttention of layer 0: wanted attention without dropout, got dropout 0\.1; call model.eval",
    ),
    "checkpointing": (
        checkpointing,
        r"got a backward pass that would compute the blocks again without handlers",
    ),
    "a loss of unedited logits": (editing_loss, r"got a loss that LlamaForCausalLM computed already; leave out labels"),
    "a bias": (biased, r"LlamaAttention of layer 0: wanted a mask of padding, .* got a mask that adds finite numbers"),
    "flash lengths": (
        lambda model, tokens: watching(model, tokens, cu_seq_lens_q=torch.tensor([0, 9])),
        r"got cu_seq_lens_q as well; pack sequences by position_ids that restart",
    ),
    "a part": (
        lambda model, tokens: watching(model.model.layers[0], tokens),
        r"got LlamaDecoderLayer, a part of one; attach to the model it belongs to",
    ),
    "a wrapper": (
        lambda model, tokens: watching(Wrapper(model), tokens),
        r"got Wrapper, which holds \['inner'\]; attach to the submodule 'inner'",
    ),
    "no gates": (
        lambda model, tokens: attached(model, Recorder({"gate"})).__enter__(),
        r"Recorder: wanted sites \['gate'\], got LlamaForCausalLM, which does not show \['gate'\]",
    ),
}


@pytest.mark.parametrize("family", ["mixtral", "olmoe", "gpt_oss"])
def test_hidden_activations_of_experts_are_refused(family):
    with (
        pytest.raises(UntappableModelError, match=r"not show \['mlp'\]; leave this handler out: experts keep"),
        attached(model_of(family), Recorder({"mlp"})),
    ):
        pass


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_say_what_to_do(model, tokens, name):
    act, message = REFUSALS[name]
    before = traces(model)
    with pytest.raises(Refusal, match=message):
        act(model, tokens)
    assert traces(model) == before


def test_attention_of_its_own_is_refused_by_class():
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model("bloom", hidden_size=16, n_head=2, n_layer=1, vocab_size=11)
    model = AutoModel.from_config(config)
    with pytest.raises(
        UntappableModelError, match="AttentionInterface, got BloomModel, which computes it in its own way"
    ):
        attached(model, Recorder({"attention"})).__enter__()


def test_two_stacks_in_one_pass_are_refused():
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(
        "bart", d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=8, decoder_ffn_dim=8, vocab_size=11, max_position_embeddings=16, pad_token_id=1,
        bos_token_id=0, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None,
    )  # fmt: skip
    model, tokens = AutoModel.from_config(config).eval(), torch.tensor([[3, 4, 5]])
    with (
        attached(model, Recorder({"attention"})),
        pytest.raises(
            UntappableModelError, match=r"BartAttention of layer 0: wanted one attention a layer, .* attach to a part"
        ),
    ):
        model(tokens)
    with attached(model.get_encoder(), seen := Recorder({"attention"})):
        model.get_encoder()(tokens)
    assert [event.value.visibility.causal for event in seen.events] == [False]
