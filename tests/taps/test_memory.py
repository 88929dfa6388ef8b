"""Watching a long sequence makes nothing of T x T, not even a mask of one byte a pair."""

from __future__ import annotations

import pytest
import torch
from gatescope.probes import Entropy, Massive, Sinks
from gatescope.scope import Scope
from gatescope_kernels.allocations import Allocations
from taps.tiny import model_of, tokens_of
from torch import nn

T = 2048


def allocated(model, *args, **kwargs):
    with torch.no_grad(), Scope(model, [Sinks(), Entropy()]), Allocations() as allocations:
        model(*args, **kwargs)
    return allocations


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_hugging_face_model_makes_no_matrix_and_no_mask(family, padded):
    model, tokens = model_of(family, num_hidden_layers=1, max_position_embeddings=T), tokens_of(1, T)
    mask = torch.ones_like(tokens)
    mask[0, T - 500 * padded :] = 0
    with Scope(model, [Massive()]):
        assert allocated(model, tokens, attention_mask=mask).largest < T * T


def test_a_plain_model_makes_no_matrix():
    model = nn.TransformerEncoderLayer(16, 2, 16, batch_first=True).eval()
    assert allocated(model, torch.randn(1, T, 16)).largest < T * T
