"""Every family of the table against transformers' own eager attention."""

from __future__ import annotations

import pytest
import torch
from gatescope.taps import FAMILIES, SITES, attached, shown
from taps.oracle import check_attention, eager
from taps.tiny import CONFIGS, Recorder, hard_model_of, logits_of, max_logits, model_of, tokens_of

pytestmark = pytest.mark.usefixtures("_no_grad")
EVERY = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def _no_grad():
    with torch.no_grad():
        yield


def padding(tokens, side):
    """Sequence 0 has 4 tokens of padding, the last has 1; None without a side."""
    mask = torch.ones_like(tokens)
    if side == "right":
        mask[0, -4:], mask[-1, -1:] = 0, 0
    elif side == "left":
        mask[0, :4], mask[-1, :1] = 0, 0
    return None if side is None else mask


def compare(model, tokens, mask=None, tolerance=1e-5, **kwargs):
    """Run both ways, compare everything that has an eager counterpart, and return what was seen."""
    expected, matrices = eager(model, tokens, attention_mask=mask, **kwargs)
    seen = Recorder(shown(model))
    with attached(model, seen):
        output = model(tokens, attention_mask=mask, **kwargs)
    text = torch.ones_like(tokens) if mask is None else mask[:, -tokens.shape[1] :]
    found, wanted = (logits_of(x)[text.bool()] for x in (output, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=tolerance * float(wanted.abs().max().clamp(min=1)))
    events = [event for event in seen.events if event.site == "attention"]
    assert len(events) == len(matrices) > 0
    for event, A in zip(events, matrices, strict=True):
        check_attention(event, A, None if mask is None else mask.bool(), tolerance)
    return seen, output


def test_every_family_is_tested():
    assert set(CONFIGS) == set(FAMILIES)
    assert {site for row in FAMILIES.values() for site in row.sites} == set(SITES) - {"linear_attention"}


@EVERY
def test_the_row_says_what_is_shown(family):
    assert shown(model_of(family)) == set(FAMILIES[family].sites)


@EVERY
@pytest.mark.parametrize("side", [None, "right", "left"])
def test_statistics_and_outputs_are_those_of_eager_attention(family, side):
    tokens = tokens_of(3, 11)
    compare(model_of(family), tokens, padding(tokens, side))


@EVERY
def test_large_logits_and_a_massive_channel(family):
    model, tokens = hard_model_of(family), tokens_of(2, 11)
    assert all(largest > 50 for largest in max_logits(model, tokens).values())
    seen, _ = compare(model, tokens, tolerance=4e-5)  # logits of 60 are rounded to 4e-6 in both
    assert seen.at("embed")[None].abs().max() > (2.5 if family == "bert" else 100)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "bert"])
def test_a_cache_is_filled_and_read(family):
    model, tokens = model_of(family), tokens_of(2, 10)
    from transformers import DynamicCache

    def cache():  # without the windows of the config it keeps every key
        return DynamicCache(config=model.config) if family == "qwen3_next" else DynamicCache()

    plain, watched = cache(), cache()
    for part in (tokens[:, :7], tokens[:, 7:8], tokens[:, 8:]):
        expected, matrices = eager(model, part, cache=plain)
        seen = Recorder(shown(model))
        with attached(model, seen):
            output = model(part, cache=watched)
        torch.testing.assert_close(output.logits, expected.logits, rtol=1e-5, atol=1e-4)
        for event, A in zip([event for event in seen.events if event.site == "attention"], matrices, strict=True):
            check_attention(event, A)
