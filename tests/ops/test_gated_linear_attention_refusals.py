"""What gated linear attention refuses, and the words that tell the caller what to do next."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gatescope_kernels import Refusal, gated_linear_attention

Q, V = (2, 4, 6, 8), (2, 4, 6, 5)
ones = torch.ones

REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "q_rank": ({"q": ones(4, 6, 8)}, ("q [B H T K]", "(4, 6, 8)", "add the missing dimension")),
    "v_rank": ({"v": ones(2, 6, 5)}, ("v [B H T V]",)),
    "not_a_tensor": ({"k": [[1.0]]}, ("k [B H T K] as a tensor", "list", "torch.as_tensor")),
    "g_not_a_tensor": ({"g": -0.1}, ("g [B H T] or [B H T K] as a tensor", "float")),
    "empty_batch": ({"q": ones(0, 4, 6, 8)}, ("no dimension of 0", "(0, 4, 6, 8)", "skip empty input")),
    "no_token": ({"q": ones(2, 4, 0, 8)}, ("no dimension of 0",)),
    "integers": ({"q": ones(Q, dtype=torch.int64)}, ("floating dtype", "torch.int64", "q.float()")),
    "integer_g": ({"g": ones(2, 4, 6, dtype=torch.int64)}, ("g in a floating dtype", "g.float()")),
    "complex": ({"v": ones(V, dtype=torch.complex64)}, ("v in a floating dtype",)),
    "two_dtypes": ({"k": ones(Q, dtype=torch.float64)}, ("q's dtype torch.float32", "k.to(q.dtype)")),
    "two_devices": ({"v": ones(V, device="meta")}, ("q's device cpu", "meta", "v.to(q.device)")),
    "k_heads": ({"k": ones(2, 2, 6, 8)}, ("k [B H T K] = (2, 4, 6, 8)", "(2, 2, 6, 8)", "repeat_interleave")),
    "k_width": ({"k": ones(2, 4, 6, 7)}, ("k [B H T K] = (2, 4, 6, 8)", "(2, 4, 6, 7)")),
    "v_length": ({"v": ones(2, 4, 5, 5)}, ("v [B H T V] = (2, 4, 6, 5)", "one value a token")),
    "g_width": ({"g": ones(2, 4, 6, 5)}, ("(2, 4, 6) or (2, 4, 6, 8)", "(2, 4, 6, 5)", "one a head")),
    "g_length": ({"g": ones(2, 4, 5)}, ("g [B H T] or [B H T K]", "(2, 4, 5)")),
    "g_dtype": ({"g": ones(2, 4, 6, dtype=torch.float16)}, ("g in torch.float32", "torch.float16", "g.to(q.dtype)")),
    "g_device": ({"g": ones(2, 4, 6, device="meta")}, ("g on q's device",)),
    "beta_shape": ({"beta": ones(Q)}, ("beta [B H T] = (2, 4, 6)", "one learning rate a token")),
    "beta_device": ({"beta": ones(2, 4, 6, device="meta")}, ("beta on q's device",)),
    "state_transposed": ({"initial_state": ones(2, 4, 5, 8)}, ("(2, 4, 8, 5)", "keys by values")),
    "state_dtype": ({"initial_state": ones(2, 4, 8, 5).double()}, ("initial_state in torch.float32", "torch.float64")),
    "scale_nan": ({"scale": float("nan")}, ("finite number", "nan", "scale=None")),
    "scale_text": ({"scale": "auto"}, ("finite number", "'auto'")),
    "impl": ({"impl": "chunk"}, ("'reference', 'blockwise'", "'chunk'", "impl='auto'")),
}


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", REFUSED)
def test_refuses_and_says_what_to_do(name: str) -> None:
    change, words = REFUSED[name]
    arguments = {"q": ones(Q), "k": ones(Q), "v": ones(V), "g": -ones(2, 4, 6)} | change
    with pytest.raises(Refusal) as refused:
        gated_linear_attention(**arguments)
    assert str(refused.value).startswith("gated_linear_attention: wanted ")
    for word in words:
        assert word in str(refused.value)
