"""Five hundred random inputs against transformers' eager attention."""

from __future__ import annotations

import pytest
import torch
from gatescope.taps import attached
from taps.oracle import check_attention, eager
from taps.tiny import VOCAB, Recorder, logits_of, model_of

#: Models of one block: full, two-sided, windowed with learned sinks, and gated attention.
MODELS = {
    "llama": {},
    "bert": {},
    "gpt_oss": {"layer_types": ("sliding_attention",)},
    "qwen3_next": {"layer_types": ("full_attention",), "mlp_only_layers": (0,)},
}
EACH = 500 // len(MODELS)


def draw(generator):
    """Tokens [B T] and a mask: odd batches, lengths from 1, repeated tokens, padding on either side or in between."""

    def integer(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    B, T = integer(1, 6), integer(1, 14)
    tokens = torch.randint(3, VOCAB, (B, T), generator=generator)
    if integer(0, 4) == 0:
        tokens = tokens[:, :1].expand(B, T).contiguous()
    mask = None
    kind = integer(0, 4)
    if kind:
        mask = torch.ones(B, T, dtype=torch.long)
        for row in range(B):
            n = integer(0, T)
            if kind == 1:
                mask[row, T - n :] = 0
            elif kind == 2:
                mask[row, :n] = 0
            else:
                mask[row] = (torch.rand(T, generator=generator) < 0.8).long()
                mask[row, 0] = 1
    return tokens, mask


@torch.no_grad()
@pytest.mark.parametrize("family", MODELS)
def test_random_inputs_agree_with_the_matrices(family):
    model, generator = (
        model_of(family, num_hidden_layers=1, **MODELS[family]),
        torch.Generator().manual_seed(len(family)),
    )
    seen = Recorder({"attention"})
    for trial in range(EACH):
        tokens, mask = draw(generator)
        expected, matrices = eager(model, tokens, attention_mask=mask)
        seen.events.clear()
        with attached(model, seen):
            output = model(tokens, attention_mask=mask)
        text = torch.ones_like(tokens) if mask is None else mask
        found, wanted = (logits_of(x)[text.bool()] for x in (output, expected))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=5e-5, msg=lambda text, n=trial: f"trial {n}: {text}")
        for event, A in zip(seen.events, matrices, strict=True):
            check_attention(event, A, None if mask is None else mask.bool())
