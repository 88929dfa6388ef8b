"""What gated attention refuses, and the words that tell the caller what to do next."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gatescope_kernels import Refusal, Visibility, gated_attention_with_stats

Q, KV = (2, 4, 6, 8), (2, 2, 6, 8)
ones = torch.ones
IDS = ones(2, 6, dtype=torch.int64)

REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "q_rank": ({"q": ones(4, 6, 8)}, ("q [B H T K]", "(4, 6, 8)", "add the missing dimension")),
    "k_rank": ({"k": ones(2, 6, 8)}, ("k [B G S K]",)),
    "not_a_tensor": ({"v": [[1.0]]}, ("v [B G S V] as a tensor", "list", "torch.as_tensor")),
    "empty_batch": ({"q": ones(0, 4, 6, 8)}, ("no dimension of 0", "(0, 4, 6, 8)")),
    "no_query": ({"q": ones(2, 4, 0, 8)}, ("no dimension of 0",)),
    "no_key": ({"k": ones(2, 2, 0, 8), "v": ones(2, 2, 0, 8)}, ("k [B G S K] with no dimension of 0",)),
    "integers": ({"q": ones(Q, dtype=torch.int64)}, ("floating dtype", "torch.int64", "q.float()")),
    "two_dtypes": ({"k": ones(KV, dtype=torch.float64)}, ("q's dtype torch.float32", "k.to(q.dtype)")),
    "two_devices": ({"v": ones(KV, device="meta")}, ("q's device cpu", "meta", "v.to(q.device)")),
    "batches_differ": ({"k": ones(1, 2, 6, 8)}, ("one batch size", "2, 1, 2")),
    "widths_differ": ({"k": ones(2, 2, 6, 7)}, ("q's width K = 8", "7")),
    "lengths_differ": ({"v": ones(2, 2, 5, 8)}, ("G, S = (2, 6)", "(2, 5)")),
    "value_heads_differ": ({"v": ones(2, 4, 6, 8)}, ("G, S = (2, 6)", "(4, 6)")),
    "heads_not_a_multiple": (
        {"q": ones(2, 3, 6, 8)},
        ("multiple of key-value heads G = 2", "transpose(1, 2)"),
    ),
    "gate_without_channel": ({"gate": ones(2, 4, 6)}, ("gate [B H T W]", "gate[..., None]")),
    "gate_width": ({"gate": ones(2, 4, 6, 3)}, ("(2, 4, 6, 8) or (2, 4, 6, 1)", "(2, 4, 6, 3)")),
    "gate_heads": ({"gate": ones(2, 1, 6, 8)}, ("gate.expand(-1, H, -1, -1)",)),
    "gate_dtype": ({"gate": ones(*Q, dtype=torch.float64)}, ("gate in q's dtype", "gate.to(q.dtype)")),
    "gate_device": ({"gate": ones(*Q, device="meta")}, ("gate on q's device",)),
    "combine": ({"gate": ones(Q), "combine": "divide"}, ("combine in", "'divide'")),
    "sink_shape": ({"sink": ones(2)}, ("sink [H] = (4,)", "(2,)", "one logit a query head")),
    "sink_integers": ({"sink": ones(4, dtype=torch.int64)}, ("sink in a floating dtype", "sink.float()")),
    "sink_device": ({"sink": ones(4, device="meta")}, ("sink on q's device",)),
    "sink_infinite": ({"sink": float("-inf")}, ("finite sink", "sink=None")),
    "visibility": ({"visibility": "causal"}, ("Visibility", "str")),
    "mask_dtype": ({"key_mask": ones(2, 6)}, ("True for keys that may be read", "torch.float32", ".bool()")),
    "mask_shape": ({"key_mask": ones(2, 6, 6, dtype=torch.bool)}, ("key_mask [B S] = (2, 6)", "one flag a key")),
    "mask_device": ({"key_mask": ones(2, 6, dtype=torch.bool, device="meta")}, ("key_mask on q's device",)),
    "documents_list": ({"documents": [[0] * 6] * 2}, ("documents [B T] as a tensor", "list")),
    "documents_dtype": ({"documents": ones(2, 6)}, ("(2, 6) of integers", "torch.float32", "documents.long()")),
    "documents_flags": ({"documents": ones(2, 6, dtype=torch.bool)}, ("of integers", "torch.bool")),
    "documents_shape": ({"documents": IDS[0]}, ("documents [B T] = (2, 6)", "(6,)", "ids.expand(B, -1)")),
    "documents_not_all_keys": (
        {"documents": ones(2, 5, dtype=torch.int64), "q": ones(2, 4, 5, 8)},
        ("as many queries as keys", "T = 5, S = 6", "the whole packed sequence"),
    ),
    "documents_device": ({"documents": IDS.to("meta")}, ("documents on q's device",)),
    "documents_fall": (
        {"documents": torch.tensor([[0, 0, 1, 1, 2, 2], [4, 4, 4, 7, 7, 5]])},
        ("do not decrease", "7 before 5 at token 5 of sample 1", "side by side"),
    ),
    "scale_nan": ({"scale": float("nan")}, ("finite scale", "scale=None")),
    "statistic": ({"stats": ("entropie",)}, ("'entropie'", "entropy, max_logit, mass, key_mass")),
    "statistic_as_string": ({"stats": "entropy"}, ("a tuple of known names", "'entropy'")),
    "scale_text": ({"scale": "1"}, ("finite scale",)),
    "sink_list": ({"sink": [0.0] * 4}, ("finite sink", "a tensor [H]")),
    "gate_list": ({"gate": [1.0]}, ("gate [B H T W] as a tensor",)),
    "mask_list": ({"key_mask": [[True] * 6] * 2}, ("key_mask [B S] as a tensor",)),
    "keys_number": ({"keys": 0}, ("a tuple of positions", "keys=(0,)")),
    "keys_text": ({"keys": ("first",)}, ("a tuple of positions",)),
    "key_outside": ({"keys": (0, 6)}, ("[0, 6)", "got 6", "the last key is 5")),
    "key_negative": ({"keys": (-1,)}, ("[0, 6)", "got -1")),
    "impl": ({"impl": "naive"}, ("'reference', 'blockwise', 'fused'", "'naive'", "impl='auto'")),
}


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", REFUSED)
def test_refuses_and_says_what_to_do(name: str) -> None:
    change, words = REFUSED[name]
    arguments = {"q": ones(Q), "k": ones(KV), "v": ones(KV)} | change
    with pytest.raises(Refusal) as refused:
        gated_attention_with_stats(**arguments)
    assert str(refused.value).startswith("gated_attention: wanted ")
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize("options", [{"window": 0}, {"window": -3}, {"sink_tokens": -1}])
def test_visibility_refuses(options: dict[str, int]) -> None:
    with pytest.raises(Refusal, match=next(iter(options))):
        Visibility(**options)
