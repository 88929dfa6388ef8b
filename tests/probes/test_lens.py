"""The logit lens against softmaxes written out, and on a model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gatescope.errors import NonFiniteError, Refusal
from gatescope.models import AttentionSpec, LMConfig, MLPSpec, TinyLM, next_token_nll
from gatescope.probes import LogitLens
from gatescope.scope import Scope

D, VOCAB = 4, 6
HEAD = torch.randn(D, VOCAB, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def readout(hidden):
    return hidden @ HEAD


@pytest.fixture
def given():
    draw = torch.Generator().manual_seed(1)
    hidden = [torch.randn(2, 5, D, generator=draw, dtype=torch.float64) for _ in range(3)]
    return {
        "tokens": torch.randint(VOCAB, (2, 5), generator=draw),
        "hidden": hidden,
        "logits": readout(hidden[-1]),
    }


def softmax(logits):
    weights = [math.exp(value) for value in logits]
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_every_number_follows_its_definition(measure, given, chunk):
    record = measure(LogitLens(readout, chunk), given)
    for layer, hidden in enumerate(given["hidden"]):
        loss, divergence, agreement, entropy = [], [], [], []
        for b in range(2):
            for t in range(5):
                p, q = (softmax((h[b, t] @ HEAD).tolist()) for h in (given["hidden"][-1], hidden))
                divergence.append(sum(x * math.log(x / y) for x, y in zip(p, q, strict=True)))
                agreement.append(p.index(max(p)) == q.index(max(q)))
                entropy.append(-sum(y * math.log(y) for y in q))
                if t < 4:
                    loss.append(-math.log(q[int(given["tokens"][b, t + 1])]))
        here = record.sel(layer=layer)
        assert here.lens_loss == pytest.approx(np.mean(loss))
        assert here.lens_divergence == pytest.approx(np.mean(divergence), abs=1e-12)
        assert here.lens_agreement == pytest.approx(np.mean(agreement))
        assert here.lens_entropy == pytest.approx(np.mean(entropy))
    assert record.lens_divergence[-1] == pytest.approx(0, abs=1e-12)
    assert record.lens_agreement[-1] == 1


def test_a_lens_that_sees_nothing_has_the_baselines(measure, given):
    given["hidden"][0] = torch.zeros(2, 5, D, dtype=torch.float64)
    record = measure(LogitLens(readout), given)
    for name in ("lens_loss", "lens_divergence", "lens_entropy"):
        assert record[name][0] == pytest.approx(record[name].attrs["baseline_value"]), name
    assert record.lens_agreement.attrs["baseline_value"] == pytest.approx(1 / VOCAB)


def test_a_document_does_not_predict_the_next_one(measure, given, call_of):
    documents = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 0, 1]])
    packed = given | {"calls": [call_of(B=2, T=5, documents=documents)]}
    places = [(0, 0, 2), (0, 2, 5), (1, 0, 4), (1, 4, 5)]
    apart = [
        {
            "tokens": given["tokens"][b : b + 1, i:j],
            "hidden": [h[b : b + 1, i:j] for h in given["hidden"]],
            "logits": given["logits"][b : b + 1, i:j],
        }
        for b, i, j in places
    ]
    one, other = measure(LogitLens(readout), packed), measure(LogitLens(readout), *apart)
    for name in one.data_vars:
        np.testing.assert_allclose(one[name], other[name], atol=1e-12, err_msg=name)
    assert abs(measure(LogitLens(readout), given).lens_loss - one.lens_loss).max() > 1e-3


@pytest.mark.parametrize("tie", [False, True])
def test_the_last_layer_of_a_model_has_its_loss(tie):
    config = LMConfig(19, 12, 3, AttentionSpec(2, 1, 6), MLPSpec("gelu", 16), tie_embeddings=tie)
    model, tokens = TinyLM(config), torch.randint(19, (2, 9), generator=torch.Generator().manual_seed(0))
    with Scope(model, [LogitLens(model.readout, chunk=5)]) as scope:
        model(tokens)
    record = scope.record()
    assert record.lens_loss[-1].item() == pytest.approx(next_token_nll(model, tokens).mean().item(), rel=1e-5)
    assert record.lens_agreement[-1] == 1


@pytest.mark.parametrize(
    ("wrong", "got"),
    [(lambda h: h @ HEAD * 1.01, "logits that differ by"), (lambda h: h @ HEAD[:, 1:], r"\(10, 5\) instead of")],
)
def test_a_readout_that_is_not_the_models_is_refused(measure, given, wrong, got):
    with pytest.raises(Refusal, match=rf"LogitLens: wanted a readout that gives the model's logits .*, got {got}"):
        measure(LogitLens(wrong), given)


def test_a_pass_without_tokens_is_refused(measure, given):
    del given["tokens"]
    with pytest.raises(Refusal, match=r"LogitLens: wanted tokens \[B T\] = \(2, 5\) and hidden states .*, got none"):
        measure(LogitLens(readout), given)


def test_one_token_has_no_next(measure, given):
    short = {"tokens": given["tokens"][:, :1], "hidden": [h[:, :1] for h in given["hidden"]]}
    with pytest.raises(Refusal, match="wanted tokens with a next token, got none in layer 0"):
        measure(LogitLens(readout), short | {"logits": given["logits"][:, :1]})


def test_nan_is_named_with_its_layer(measure, given):
    given["hidden"][1][0, 2] = torch.nan
    with pytest.raises(NonFiniteError, match=r"LogitLens: .* in layer 1"):
        measure(LogitLens(readout), given)


def test_chunks_are_counted_from_one():
    with pytest.raises(Refusal, match="chunk >= 1, got 0"):
        LogitLens(readout, chunk=0)
