"""What the N:M functions refuse, and the words that tell the caller what to do next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gatescope_kernels import (
    Refusal,
    compress_2_4,
    decompress_2_4,
    mask_divergence,
    nm_linear,
    nm_mask,
    nm_valid,
)

ones = torch.ones
METADATA = torch.full((3, 2), 0b11_01_01_00, dtype=torch.uint8)

LINEAR: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "weight_rank": ({"weight": ones(3, 4, 2)}, ("weight [F D]", "(3, 4, 2)", "weight.flatten(1)")),
    "weight_is_a_list": ({"weight": [[1.0]]}, ("weight [F D] as a tensor", "list", "torch.as_tensor")),
    "weight_empty": ({"weight": ones(0, 8)}, ("no dimension of 0", "(0, 8)")),
    "weight_integers": ({"weight": ones(3, 8, dtype=torch.int64)}, ("floating dtype", "weight.float()")),
    "x_scalar": ({"x": ones(())}, ("x [* D] with weight's D = 8", "()")),
    "x_width": ({"x": ones(5, 3)}, ("weight's D = 8", "(5, 3)", "[F D] = [out in]", "transpose")),
    "x_empty": ({"x": ones(0, 8)}, ("x [* D] with no dimension of 0", "skip empty")),
    "x_integers": ({"x": ones(5, 8, dtype=torch.int32)}, ("x in a floating dtype", "x.float()")),
    "x_complex": ({"x": ones(5, 8, dtype=torch.complex64)}, ("x in a floating dtype", "torch.complex64")),
    "two_dtypes": ({"x": ones(5, 8, dtype=torch.float64)}, ("weight's dtype torch.float32", "x.to(weight.dtype)")),
    "two_devices": ({"x": ones(5, 8, device="meta")}, ("weight's device cpu", "meta", "x.to(weight.device)")),
    "bias_shape": ({"bias": ones(8)}, ("bias [F] = (3,)", "(8,)", "one number an output")),
    "bias_number": ({"bias": 0.0}, ("bias [F] as a tensor", "float")),
    "bias_dtype": ({"bias": ones(3, dtype=torch.float16)}, ("bias in weight's dtype", "bias.to(weight.dtype)")),
    "bias_device": ({"bias": ones(3, device="meta")}, ("bias on weight's device",)),
    "more_than_there_are": ({"n": 5, "m": 4}, ("1 <= n <= m", "n = 5, m = 4", "n = m keeps all")),
    "none_kept": ({"n": 0}, ("1 <= n <= m", "n = 0")),
    "negative": ({"n": -1, "m": -1}, ("1 <= n <= m", "n = -1")),
    "n_is_a_float": ({"n": 2.0}, ("n: an int", "2.0")),
    "m_is_a_flag": ({"m": True}, ("m: an int", "True")),
    "not_a_multiple": ({"n": 2, "m": 5}, ("multiple of m = 5", "D = 8", "pad the inputs")),
    "backward": ({"backward": "dense"}, ("backward in", "'dense'", "backward='srste'")),
    "decay_negative": ({"decay": -1e-4}, ("decay: a finite number >= 0", "-0.0001", "backward='ste'")),
    "decay_nan": ({"decay": float("nan")}, ("a finite number", "nan")),
    "decay_word": ({"decay": "2e-4"}, ("a finite number", "'2e-4'")),
    "impl": ({"impl": "triton"}, ("'reference', 'blockwise', 'fused'", "'triton'", "impl='auto'")),
}

OTHERS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], tuple[str, ...]]] = {
    "mask_pattern": (nm_mask, (ones(3, 8), 3, 2), ("nm_mask: wanted 1 <= n <= m",)),
    "mask_width": (nm_mask, (ones(3, 8), 1, 3), ("nm_mask: wanted weight [F D] with D a multiple of m = 3",)),
    "valid_rank": (nm_valid, (ones(8), 2, 4), ("nm_valid: wanted weight [F D]", "(8,)")),
    "sad_dtype": (mask_divergence, (ones(2, 4), ones(2, 4).bool()), ("mask_a of bool", "mask_a != 0")),
    "sad_list": (mask_divergence, (ones(2, 4).bool(), [True]), ("mask_b as a tensor", "list", "nm_mask")),
    "sad_shape": (mask_divergence, (ones(2, 4).bool(), ones(4, 2).bool()), ("shape (2, 4)", "(4, 2)")),
    "sad_empty": (mask_divergence, (ones(0, 4).bool(), ones(0, 4).bool()), ("no dimension of 0",)),
    "sad_device": (
        mask_divergence,
        (ones(2, 4).bool(), ones(2, 4, dtype=torch.bool, device="meta")),
        ("mask_a's device cpu", "meta", "mask_b.to(mask_a.device)"),
    ),
    "dense": (
        compress_2_4,
        (torch.tensor([[0.0, 0, 1, 1, 1, 1, 1, 0], [0.0] * 8]),),
        ("at most 2 non-zeros", "1 of 4 groups", "row 0, inputs 4 to 7", "nm_mask(weight, 2, 4)"),
    ),
    "compress_width": (compress_2_4, (ones(3, 6),), ("compress_2_4: wanted weight [F D] with D a multiple of m = 4",)),
    "values_dtype": (decompress_2_4, (ones(3, 8, dtype=torch.int8), METADATA), ("values in a floating dtype",)),
    "values_odd": (decompress_2_4, (ones(3, 7), METADATA), ("even number of columns", "(3, 7)")),
    "values_rank": (decompress_2_4, (ones(8), METADATA), ("values [F D/2]", "(8,)")),
    "metadata_list": (decompress_2_4, (ones(3, 8), [1]), ("metadata as a tensor", "list")),
    "metadata_words": (
        decompress_2_4,
        (ones(3, 8), METADATA.view(torch.int16)),
        ("(3, 2) of torch.uint8", "torch.int16 (3, 1)", "metadata.view(torch.uint8)"),
    ),
    "metadata_shape": (decompress_2_4, (ones(3, 6), METADATA[:2]), ("(3, 2) of torch.uint8", "(2, 2)")),
    "metadata_device": (decompress_2_4, (ones(3, 8), METADATA.to("meta")), ("values' device cpu", "meta")),
    "places_descend": (decompress_2_4, (ones(3, 8), METADATA * 0 + 0b0001), ("two ascending places", "interleaving")),
    "places_repeat": (decompress_2_4, (ones(3, 8), METADATA * 0), ("two ascending places",)),
    "unused_bits": (decompress_2_4, (ones(3, 6), METADATA), ("unused bits 0",)),
}


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", LINEAR)
def test_linear_refuses_and_says_what_to_do(name: str) -> None:
    change, words = LINEAR[name]
    arguments = {"x": ones(5, 8), "weight": ones(3, 8), "bias": ones(3)} | change
    with pytest.raises(Refusal) as refused:
        nm_linear(**arguments)
    assert str(refused.value).startswith("nm_linear: wanted ")
    assert [word for word in words if word not in str(refused.value)] == []


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", OTHERS)
def test_the_others_refuse_and_say_what_to_do(name: str) -> None:
    function, arguments, words = OTHERS[name]
    with pytest.raises(Refusal) as refused:
        function(*arguments)
    assert str(refused.value).startswith(f"{function.__name__}: wanted ")
    assert [word for word in words if word not in str(refused.value)] == []
