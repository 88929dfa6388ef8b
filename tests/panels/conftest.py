"""Fake measurements whose law is known, and a tiny real model with a tokenizer of single characters."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from gatescope.errors import Refusal
from gatescope.gates import GateSpec
from gatescope.models import AttentionSpec, LMConfig, MLPSpec, TinyLM

LAYERS, HEADS, DIMS = 3, 2, 16


class Letters:
    """A tokenizer: one token a character."""

    def prepare(self, text, max_tokens=512):
        if not text.strip():
            raise Refusal("prepare", "a text with at least one word", repr(text), "type a sentence")
        if len(text) > max_tokens:
            raise Refusal("prepare", f"at most {max_tokens} tokens", str(len(text)), "shorten the text")
        return torch.tensor([[ord(letter) % 64 for letter in text]])

    def pieces(self, ids):
        return [chr(64 + token) for token in ids.flatten().tolist()]


def tiny(gate=None, seed=0) -> TinyLM:
    attention = AttentionSpec(n_heads=HEADS, n_kv_heads=1, head_dim=8, gate=gate)
    config = LMConfig(vocab=64, d_model=DIMS, n_layers=LAYERS, attention=attention, mlp=MLPSpec("gelu", 32))
    return TinyLM(config, init_seed=seed).eval()


@pytest.fixture(scope="session")
def pretrained():
    model = tiny()
    return SimpleNamespace(model=model, tokenizer=Letters(), config=model.config)


@pytest.fixture(scope="session")
def gated():
    return tiny(GateSpec(position="sdpa", bias_init=-2.0))


@pytest.fixture
def of_text():
    """text -> record whose first-token attention is len(text) / 100; ``calls`` counts the runs."""

    def measure(text):
        if not text:
            raise Refusal("prepare", "a text", "''", "type a sentence")
        if text == "crash":
            raise RuntimeError("<b>burnt</b>")
        measure.calls += 1
        magnitude = np.ones((LAYERS, 4, DIMS))
        magnitude[1, 0, 5], magnitude[2, 0, 9] = 500.0, 700.0
        ranked = {"top_value": [[1.0], [500.0], [700.0]], "top_token": [[0]] * 3, "top_dim": [[0], [5], [9]]}
        return xr.Dataset(
            {
                "first_attention": (("layer", "head"), np.full((LAYERS, HEADS), len(text) / 100)),
                "entropy_normalised": (("layer", "head"), np.full((LAYERS, HEADS), 0.5)),
                "magnitude": (("layer", "token", "dim"), magnitude),
                "magnitude_median": ("layer", np.ones(LAYERS)),
                "value_drain": (("layer", "kv_head"), np.full((LAYERS, 1), 0.2)),
                **{name: (("layer", "rank"), values) for name, values in ranked.items()},
            },
            coords={"piece": ("token", ["<script>alert(1)</script>", "b", "c", "d"])},
        )

    measure.calls = 0
    return measure
