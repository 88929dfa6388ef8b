"""A byte model beyond its trained length: the same bytes behind a longer past, and RoPE's base as the formula says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gatescope import bytewise
from gatescope.errors import Refusal
from gatescope.layers.rope import rope_tables
from gatescope.models import AttentionSpec, LMConfig, MLPSpec, TinyLM, next_token_nll
from gatescope.records import check
from gatescope.tasks.text import BYTE_BOS, BYTE_VOCAB


def config(rope_theta: float | None = 10_000.0) -> LMConfig:
    return LMConfig(BYTE_VOCAB, 8, 1, AttentionSpec(1, 1, 8, rope_theta=rope_theta), MLPSpec("gelu", 8))


@pytest.fixture(scope="module")
def tokens():
    return bytewise.held_out(3)


def test_held_out_crops_are_as_long_as_the_longest_length_and_always_the_same(tokens):
    assert tokens.shape == (3, bytewise.LENGTH * bytewise.MULTIPLES[-1])
    assert torch.equal(tokens, bytewise.held_out(3))


def test_less_past_ends_with_the_same_bytes(tokens):
    short = bytewise.with_less_past(tokens, 64)
    assert short.shape == (3, 64)
    assert (short[:, 0] == BYTE_BOS).all()
    assert torch.equal(short[:, 1:], tokens[:, -63:])
    assert torch.equal(bytewise.with_less_past(tokens, tokens.shape[1]), tokens)


@pytest.mark.parametrize("multiple", [2, 4])
def test_the_slowest_pair_turns_slower_by_the_multiple_and_the_fastest_as_before(multiple):
    def angles(theta: float) -> torch.Tensor:
        cos, sin = rope_tables(2, 8, theta, torch.device("cpu"), torch.float64)
        return torch.atan2(sin[1, :4], cos[1, :4])

    before, after = angles(10_000.0), angles(bytewise.stretched(config(), multiple).attention.rope_theta)
    assert after[0] == pytest.approx(before[0].item())
    assert before[-1] / after[-1] == pytest.approx(multiple)


@pytest.mark.parametrize("multiple", [1, 8])
def test_a_loss_is_over_the_same_last_bytes(tokens, multiple):
    model = TinyLM(config())
    nll = next_token_nll(model, bytewise.with_less_past(tokens, 64 * multiple))
    assert bytewise.loss_at(model, tokens, multiple) == pytest.approx(nll[:, -63:].mean().item())


def test_beyond_holds_losses_and_their_rise_as_trained_and_stretched(tokens):
    model = TinyLM(config(), init_seed=1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.mul_(20)  # so that positions tell
    found = check(bytewise.beyond(model, tokens))
    assert found.length.values.tolist() == [64, 128, 256, 512]
    at, stretched = found.loss_at_length, found.loss_at_length_stretched
    assert float(at.sel(length=256)) == pytest.approx(bytewise.loss_at(model, tokens, 4))
    by_hand = TinyLM(bytewise.stretched(model.config, 4))
    by_hand.load_state_dict(model.state_dict())
    assert float(stretched.sel(length=256)) == pytest.approx(bytewise.loss_at(by_hand, tokens, 4))
    assert float(at[0]) == float(stretched[0])
    assert (at[1:] != stretched[1:]).all()
    np.testing.assert_array_equal(found.rise_at_length, at - at[0])
    np.testing.assert_array_equal(found.rise_at_length_stretched, stretched - stretched[0])


def test_without_rope_nothing_is_stretched(tokens):
    found = bytewise.beyond(TinyLM(config(None)), tokens[:1])
    assert set(found.data_vars) == {"loss_at_length", "rise_at_length"}
    with pytest.raises(Refusal, match="with RoPE"):
        bytewise.stretched(config(None), 2)


def test_the_instruments_see_the_trained_length(tokens):
    model = TinyLM(config())
    found = check(bytewise.evaluate(model, tokens))
    assert {"first_attention", "entropy", "massive_ratio", "value_drain", "loss"} <= set(found.data_vars)
    assert (found.attrs["n_samples"], found.attrs["n_tokens"]) == (3, 3 * 64)
    assert float(found.loss) == pytest.approx(bytewise.loss_at(model, tokens, 1))
