"""next_token_nll: the equation, padding, and what it says when numbers stop being finite."""

from __future__ import annotations

import pytest
import torch
from gatescope.errors import NonFiniteError, Refusal
from gatescope.models import AttentionSpec, LMConfig, MLPSpec, TinyLM, next_token_nll


@pytest.fixture
def model() -> TinyLM:
    return TinyLM(LMConfig(11, 16, 3, AttentionSpec(2, 1, 8), MLPSpec("gelu", 32)), init_seed=1)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(11, (3, 7), generator=torch.Generator().manual_seed(0))


def test_is_the_negative_log_probability(model: TinyLM, tokens: torch.Tensor) -> None:
    nll = next_token_nll(model, tokens)
    assert nll.shape == (3, 6)
    probability = model(tokens).double().softmax(-1)
    for b in range(3):
        for t in range(6):
            assert nll[b, t].item() == pytest.approx(-probability[b, t, tokens[b, t + 1]].log().item(), abs=1e-5)


def test_padding_changes_no_loss_before_it(model: TinyLM, tokens: torch.Tensor) -> None:
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, 4:] = False
    padded, plain = next_token_nll(model, tokens, mask), next_token_nll(model, tokens)
    torch.testing.assert_close(padded[:, :4], plain[:, :4])
    assert not torch.allclose(padded[:, 4:], plain[:, 4:])


def test_packed_documents_lose_what_they_lose_alone_and_nothing_at_their_borders(model, tokens) -> None:
    packed, documents = torch.cat([tokens[0, :4], tokens[1]])[None], torch.tensor([[0] * 4 + [1] * 7])
    found = next_token_nll(model, packed, documents=documents)[0]
    alone = [next_token_nll(model, part[None])[0] for part in (tokens[0, :4], tokens[1])]
    torch.testing.assert_close(found[:3], alone[0])
    torch.testing.assert_close(found[4:], alone[1])
    assert found[3] == 0


def test_half_precision_is_summed_in_fp32(model: TinyLM, tokens: torch.Tensor) -> None:
    assert next_token_nll(model.to(torch.bfloat16), tokens).dtype == torch.float32


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("weight", "place"),
    [
        ("embed.weight", "the embedding"),
        ("blocks.0.mlp.down_proj.weight", "the output of layer 0"),
        ("blocks.1.attention.v_proj.weight", "the output of layer 1"),
        ("blocks.2.mlp_norm.weight", "the output of layer 2"),
        ("head.weight", "the final norm or the output head"),
    ],
)
def test_names_the_first_layer_that_is_not_finite(model, tokens, weight: str, place: str, bad: float) -> None:
    with torch.no_grad():
        model.get_parameter(weight).fill_(bad)
    with pytest.raises(NonFiniteError, match=f"first in {place}"):
        next_token_nll(model, tokens)


def test_needs_two_tokens(model: TinyLM) -> None:
    with pytest.raises(Refusal, match="at least 2 tokens"):
        next_token_nll(model, torch.zeros(2, 1, dtype=torch.long))
