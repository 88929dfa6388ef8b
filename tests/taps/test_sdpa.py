"""Plain PyTorch models: attention by scaled_dot_product_attention, written by hand or torch's own modules."""

from __future__ import annotations

import math

import pytest
import torch
from gatescope.errors import UntappableModelError
from gatescope.interventions import MaskKeys
from gatescope.probes import Entropy, Massive, Sinks
from gatescope.scope import Scope
from gatescope.taps import AttentionCall, attached, attend, shown
from gatescope_kernels import Visibility
from taps.oracle import check_attention
from taps.tiny import Recorder
from torch import nn
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention


class Attention(nn.Module):
    """Two attentions of x with itself, projected, with whatever options are given."""

    def __init__(self, heads=2, dims=3):
        super().__init__()
        self.heads, self.dims = heads, dims
        self.project = nn.Linear(12, 12)

    def forward(self, x, **options):
        return self.once(x, **options) + self.once(x + 1, **options)

    def once(self, x, **options):
        q = k = v = self.split(self.project(x))
        if options.get("enable_gqa"):
            k, v = (y[:, : self.heads // 2] for y in (k, v))
        y = scaled_dot_product_attention(q, k, v, **options)
        return y.transpose(-2, -3).flatten(-2) if self.heads else y

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3) if self.heads else x


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def causal(T):
    return torch.ones(T, T, dtype=torch.bool).tril()


def padded(B, T):
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[0, -2:] = False
    return mask


def additive(mask):
    return torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)


def matrix(event, visible=None):
    """The eager matrix of a call under a mask that broadcasts to [B H T S]."""
    call = event.value
    k = call.k.repeat_interleave(call.q.shape[1] // call.k.shape[1], 1)
    scores = call.q @ k.mT * (1 / math.sqrt(call.q.shape[-1]) if call.scale is None else call.scale)
    return (scores if visible is None else scores.masked_fill(~visible, -torch.inf)).softmax(-1)


T, B = 7, 2
NEAR = causal(T) & ~causal(T).roll(3, 0).tril(-3)
BAND = (torch.arange(T)[:, None] - torch.arange(T)).abs() < 3
KEYS = padded(B, T)[:, None, None]
MASKS = {
    "none": ({}, torch.ones(T, T, dtype=torch.bool), Visibility(causal=False)),
    "is_causal": ({"is_causal": True}, causal(T), Visibility()),
    "all true": ({"attn_mask": torch.ones(T, T, dtype=torch.bool)}, BAND | True, Visibility(causal=False)),
    "causal": ({"attn_mask": causal(T)}, causal(T), Visibility()),
    "causal, additive": ({"attn_mask": additive(causal(T))}, causal(T), Visibility()),
    "padding": ({"attn_mask": KEYS}, KEYS, Visibility(causal=False)),
    "padding, additive, by row": (
        {"attn_mask": additive(KEYS.expand(B, 2, T, T))},
        KEYS,
        Visibility(causal=False),
    ),
    "both": ({"attn_mask": causal(T) & KEYS}, causal(T) & KEYS, Visibility()),
    "window": ({"attn_mask": NEAR}, NEAR, Visibility(window=3)),
    "window and padding": ({"attn_mask": NEAR & KEYS}, NEAR & KEYS, Visibility(window=3)),
    "two-sided window": ({"attn_mask": BAND}, BAND, Visibility(causal=False, window=3)),
    "scale": ({"scale": 0.7, "is_causal": True}, causal(T), Visibility()),
    "grouped queries": ({"enable_gqa": True, "is_causal": True}, causal(T), Visibility()),
}


@torch.no_grad()
@pytest.mark.parametrize("name", MASKS)
def test_masks_are_recognised_and_statistics_are_those_of_the_matrix(name):
    options, visible, rule = MASKS[name]
    model, x = Attention(), torch.randn(B, T, 12)
    expected = model(x, **options)
    with attached(model, seen := Recorder({"attention"})):
        output = model(x, **options)
    live = visible.expand(B, 1, T, T).any(-1)[:, 0]
    torch.testing.assert_close(output[live], expected[live], rtol=1e-5, atol=1e-5)
    assert [event.layer for event in seen.events] == [0, 1]
    for event in seen.events:
        assert event.value.visibility == rule
        assert (event.key_mask is None) == ("padding" not in name and name != "both")
        check_scaled(event, matrix(event, visible.expand(B, 1, T, T)).nan_to_num(), live)


def check_scaled(event, A, live=None):
    from dataclasses import replace

    scale = 1 / math.sqrt(event.value.q.shape[-1]) if event.value.scale is None else event.value.scale
    check_attention(replace(event, value=replace(event.value, scale=scale)), A, live)


@torch.no_grad()
def test_cached_keys_and_inputs_without_heads():
    class Decoder(nn.Module):
        def forward(self, q, k):
            return scaled_dot_product_attention(q, k, k)

    for q, k in (
        (torch.randn(2, 3, 1, 4), torch.randn(2, 3, 6, 4)),
        (torch.randn(2, 5, 4), torch.randn(2, 5, 4)),
        (torch.randn(5, 4), torch.randn(6, 4)),
        (torch.randn(2, 2, 3, 5, 4), torch.randn(2, 2, 3, 6, 4)),
    ):
        expected = Decoder()(q, k)
        with attached(model := Decoder(), seen := Recorder({"attention"})):
            output = model(q, k)
        torch.testing.assert_close(output, expected)
        assert len(seen.events) == 1


ENCODERS = {
    "post-norm": {},
    "pre-norm": {"norm_first": True},
    "time first": {"batch_first": False},
    "gelu": {"activation": "gelu"},
}


@torch.no_grad()
@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("padding", [False, True])
def test_transformer_encoders_in_evaluation_are_seen_off_their_fast_path(name, padding):
    options = {"batch_first": True} | ENCODERS[name]
    layer = nn.TransformerEncoderLayer(12, 2, 16, **options)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x, mask = torch.randn(B, T, 12), padded(B, T)
    given = {"src_key_padding_mask": ~mask} if padding else {}
    x = x if options["batch_first"] else x.transpose(0, 1)
    expected = model(x, **given)
    with Scope(model, [Entropy(), Sinks()]) as scope, attached(model, seen := Recorder({"attention"})):
        output = model(x, **given)
    if not options["batch_first"]:
        output, expected = output.transpose(0, 1), expected.transpose(0, 1)
    live = mask if padding else torch.ones_like(mask)
    torch.testing.assert_close(output[live], expected[live], rtol=1e-5, atol=1e-5)
    for event in seen.events:
        check_scaled(event, matrix(event, KEYS if padding else None), mask if padding else None)
    assert scope.record().attrs["n_tokens"] == (12 if padding else 14)
    assert scope.record().sizes["layer"] == 2


@torch.no_grad()
def test_multihead_attention_without_weights():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(12, 3, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False, attn_mask=~causal(T), is_causal=True)[0]

    model, x = Block().eval(), torch.randn(B, T, 12)
    expected = model(x)
    with attached(model, seen := Recorder({"attention"})):
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    (event,) = seen.events
    assert event.value.visibility == Visibility()
    check_scaled(event, matrix(event, causal(T)))


def test_decoders_and_training_have_the_same_gradients():
    model = nn.TransformerDecoder(nn.TransformerDecoderLayer(12, 2, 16, dropout=0.0, batch_first=True), 1)
    x, memory = torch.randn(B, 5, 12), torch.randn(B, T, 12)
    grads = []
    for watched in (False, True):
        model.zero_grad()
        with attached(model, *([Recorder({"attention"})] if watched else [])):
            model(x, memory, tgt_mask=nn.Transformer.generate_square_subsequent_mask(5)).square().mean().backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(*grads)


@torch.no_grad()
@pytest.mark.parametrize("order", [1, -1])
def test_a_part_and_the_whole_number_attentions_alike(order):
    model = nn.Sequential(Attention(), Attention())
    whole, part = Recorder({"attention"}), Recorder({"attention"})
    first, second = [(model, whole), (model[1], part)][::order]
    with attached(*first), attached(*second):
        model(torch.randn(B, T, 12))
    assert [event.layer for event in whole.events] == [0, 1, 2, 3]
    assert [event.layer for event in part.events] == [2, 3]


@torch.no_grad()
def test_interventions_reach_a_plain_model():
    model, x = Attention(), torch.randn(B, T, 12)
    with MaskKeys(2).on(model), attached(model, seen := Recorder({"attention"})):
        model(x)
    assert all((event.stats.key_mass[..., 2] == 0).all() for event in seen.events)


@torch.no_grad()
def test_a_default_device_below_does_not_hide_attention():
    model, x = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True).eval(), torch.randn(B, T, 12)
    with torch.device("cpu"), attached(model, seen := Recorder({"attention"})):
        model(x)
    assert len(seen.events) == 1


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()], ids=repr)
def test_the_function_is_torchs_own_after_any_exit(error):
    model, before = Attention(), functional.scaled_dot_product_attention

    class Broken(Recorder):
        def watch(self, event):
            raise error

    with pytest.raises(type(error)), attached(model, Broken({"attention"})):
        model(torch.randn(B, T, 12))
    assert functional.scaled_dot_product_attention is before
    assert "forward" not in model.__dict__
    assert torch.overrides._get_current_function_mode_stack() == []


def test_a_model_with_sites_of_its_own_is_left_to_them():
    class Own(nn.Module):
        tap_sites = frozenset({"attention"})

        def forward(self, q):
            scaled_dot_product_attention(q, q, q)
            return attend(AttentionCall(q, q, q), layer=5)

    model = Own()
    with attached(model, seen := Recorder({"attention"})):
        model(torch.randn(1, 2, 3, 4))
    assert [event.layer for event in seen.events] == [5]


class Weights(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


class ByHand(nn.Module):
    def forward(self, x):
        return (x @ x.mT).softmax(-1) @ x


def watching(model, *args, **kwargs):
    with attached(model, Recorder({"attention"})):
        return model(*args, **kwargs)


def random_mask():
    mask = torch.rand(T, T) < 0.5
    return mask | torch.eye(T, dtype=torch.bool)


REFUSALS = {
    "weights": (
        lambda x: watching(Weights(), x),
        r"attention \(MultiheadAttention\): wanted nn.MultiheadAttention called with need_weights=False, got",
    ),
    "by hand": (
        lambda x: watching(ByHand(), x),
        r"wanted a forward pass that attends, got one of ByHand in which no attention was seen; compute it by",
    ),
    "dropout": (
        lambda x: watching(Attention(), x, dropout_p=0.1),
        r"the model \(Attention\): wanted attention without dropout, got dropout 0\.1; call model\.eval\(\)",
    ),
    "arbitrary mask": (
        lambda x: watching(Attention(), x, attn_mask=random_mask()),
        r"the model \(Attention\): wanted a mask of padding, .* got a mask that is no padding, causality or window",
    ),
    "bias": (
        lambda x: watching(Attention(), x, attn_mask=torch.randn(T, T)),
        r"got a mask that adds finite numbers to the logits; leave handlers of attention out",
    ),
    "heads differ": (
        lambda x: watching(Attention(), x, attn_mask=torch.stack([causal(T), BAND])),
        r"got a mask that differs between heads",
    ),
    "residual stream": (
        lambda x: Scope(Attention(), [Massive()]).__enter__(),
        r"Massive: wanted sites \['resid'\], got Attention, which does not show \['resid'\]; call taps\.tap",
    ),
    "nothing that attends": (
        lambda x: Scope(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), [Sinks()]).__enter__(),
        r"Sinks: wanted a model that emits taps .* got Sequential, which has none",
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_say_what_to_do(name):
    act, message = REFUSALS[name]
    with pytest.raises(UntappableModelError, match=message):
        act(torch.randn(B, T, 12))


def test_what_a_plain_model_shows():
    assert shown(Attention()) == {"attention"}
    assert shown(nn.Linear(2, 2)) == frozenset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, in the import of dynamo
@pytest.mark.parametrize("how", ["wrapped", "in place", "inside"])
def test_compiled_models_are_refused(how):
    model = nn.Sequential(Attention())
    if how == "wrapped":
        model = torch.compile(model)
    elif how == "in place":
        model.compile()
    else:
        model[0].compile()
    with pytest.raises(UntappableModelError, match=r"wanted a model that runs in Python, .* compiled by torch.compile"):
        watching(model, torch.randn(B, T, 12))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_compiled_function_around_a_model_says_no_and_works_again_afterwards():
    model, x = Attention(), torch.randn(B, T, 12)
    step = torch.compile(lambda x: model(x) + 1, backend="eager")
    expected = step(x)
    with (
        attached(model, seen := Recorder({"attention"})),
        pytest.raises(Exception, match=r"Attention inside a function compiled by torch\.compile"),
    ):
        step(x)
    assert not seen.events
    torch.testing.assert_close(step(x), expected)
