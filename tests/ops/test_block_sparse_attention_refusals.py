"""What block-sparse attention and its rules refuse, and the words that tell the caller what to do next."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gatescope_kernels import (
    Refusal,
    block_max_attention,
    block_sparse_attention_with_lse,
    threshold_blocks,
    top_blocks,
)

Q, KV, MASK = (2, 4, 100, 8), (2, 2, 100, 8), (2, 4, 2, 2)
ones = torch.ones

REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "q_rank": ({"q": ones(4, 6, 8)}, ("q [B H T K]", "(4, 6, 8)", "add the missing dimension")),
    "k_rank": ({"k": ones(2, 6, 8)}, ("k [B G S K]",)),
    "not_a_tensor": ({"v": [[1.0]]}, ("v [B G S V] as a tensor", "list", "torch.as_tensor")),
    "empty_batch": ({"q": ones(0, 4, 100, 8)}, ("no dimension of 0", "(0, 4, 100, 8)")),
    "no_key": ({"k": ones(2, 2, 0, 8)}, ("k [B G S K] with no dimension of 0",)),
    "integers": ({"q": ones(Q, dtype=torch.int64)}, ("floating dtype", "torch.int64", "q.float()")),
    "two_dtypes": ({"k": ones(KV, dtype=torch.float64)}, ("q's dtype torch.float32", "k.to(q.dtype)")),
    "two_devices": ({"v": ones(KV, device="meta")}, ("q's device cpu", "meta", "v.to(q.device)")),
    "batches_differ": ({"k": ones(1, 2, 100, 8)}, ("k with q's batch B = 2", "got 1")),
    "widths_differ": ({"k": ones(2, 2, 100, 7)}, ("q's width K = 8", "7")),
    "lengths_differ": ({"v": ones(2, 2, 99, 8)}, ("G, S = (2, 100)", "(2, 99)")),
    "heads_not_a_multiple": ({"q": ones(2, 3, 100, 8)}, ("multiple of key-value heads G = 2", "transpose(1, 2)")),
    "mask_type": ({"block_mask": [[True]]}, ("block_mask", "list", "top_blocks(scores, keep=...)")),
    "mask_dtype": ({"block_mask": ones(MASK)}, ("of bool", "torch.float32", "threshold_blocks")),
    "mask_rank": ({"block_mask": ones(2, 2, dtype=torch.bool)}, ("(2, 4, 2, 2) or (2, 2, 2, 2)", "mask.expand")),
    "mask_of_tokens": ({"block_mask": ones(2, 4, 100, 100, dtype=torch.bool)}, ("blocks of 64", "(2, 4, 100, 100)")),
    "mask_of_one_head": ({"block_mask": ones(2, 1, 2, 2, dtype=torch.bool)}, ("mask.expand(B, H, -1, -1)",)),
    "mask_of_another_block": ({"block": 32}, ("(2, 4, 4, 4)", "ceil(length / block) blocks of 32")),
    "mask_device": ({"block_mask": ones(MASK, dtype=torch.bool, device="meta")}, ("block_mask on q's device",)),
    "block_zero": ({"block": 0}, ("whole number >= 1", "got 0")),
    "block_fraction": ({"block": 64.0}, ("whole number >= 1", "64.0")),
    "block_flag": ({"block": True}, ("whole number >= 1", "True")),
    "causal": ({"causal": "yes"}, ("True or False", "'yes'")),
    "scale_nan": ({"scale": float("nan")}, ("finite number as scale", "scale=None")),
    "scale_text": ({"scale": "1"}, ("finite number as scale", "'1'")),
    "impl": ({"impl": "flash"}, ("'reference', 'blockwise', 'fused'", "'flash'", "impl='auto'")),
}
SHARED = ("q_rank", "k_rank", "empty_batch", "integers", "widths_differ", "block_zero", "causal", "scale_nan", "impl")
ALIKE = ("two_dtypes", "batches_differ", "heads_not_a_multiple")
RULES: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "neither": (lambda: top_blocks(ones(2, 2)), ("one of keep and share", "neither", "keep=8")),
    "both": (lambda: top_blocks(ones(2, 2), keep=1, share=0.5), ("one of keep and share", "both")),
    "keep_zero": (lambda: top_blocks(ones(2, 2), keep=0), ("keep: a whole number >= 1", "got 0")),
    "keep_fraction": (lambda: top_blocks(ones(2, 2), keep=0.1), ("keep: a whole number", "0.1", "share=")),
    "share_zero": (lambda: top_blocks(ones(2, 2), share=0.0), ("share in (0, 1]", "got 0.0")),
    "share_percent": (lambda: top_blocks(ones(2, 2), share=10), ("share in (0, 1]", "got 10")),
    "share_nan": (lambda: top_blocks(ones(2, 2), share=float("nan")), ("share in (0, 1]", "nan")),
    "share_text": (lambda: top_blocks(ones(2, 2), share="0.1"), ("share in (0, 1]", "'0.1'")),
    "scores_type": (lambda: top_blocks([1.0], keep=1), ("as a tensor", "list")),
    "scores_rank": (lambda: top_blocks(ones(3), keep=1), ("scores [... nQ nS]", "(3,)")),
    "scores_empty": (lambda: top_blocks(ones(0, 3), keep=1), ("no dimension of 0",)),
    "scores_integers": (lambda: top_blocks(ones(2, 2, dtype=torch.int64), keep=1), ("floating dtype", ".float()")),
    "scores_nan": (lambda: top_blocks(ones(2, 2) * float("nan"), keep=1), ("without NaN", "4 NaN")),
    "lengths": (lambda: top_blocks(ones(2, 2), keep=1, lengths=(64, 128)), ("(1, 2)", "(2, 2)", "block size")),
    "lengths_one": (lambda: top_blocks(ones(2, 2), keep=1, lengths=128), ("lengths: (T, S)", "128")),
    "lengths_none": (lambda: top_blocks(ones(2, 2), keep=1, lengths=(0, 128)), ("lengths: (T, S)", "(0, 128)")),
    "rule_block": (lambda: top_blocks(ones(2, 2), keep=1, block=-1), ("whole number >= 1", "-1")),
    "rule_causal": (lambda: top_blocks(ones(2, 2), keep=1, causal=1), ("True or False", "got 1")),
    "threshold_nan": (lambda: threshold_blocks(ones(2, 2), float("nan")), ("threshold that is a number", "nan")),
    "threshold_text": (lambda: threshold_blocks(ones(2, 2), "0.5"), ("threshold that is a number", "'0.5'")),
    "threshold_scores_nan": (lambda: threshold_blocks(ones(2, 2) * float("nan"), 0.0), ("without NaN",)),
    "normalise": (
        lambda: block_max_attention(ones(Q), ones(KV), normalise="rows"),
        ("normalise: True or False", "'rows'"),
    ),
}
pytestmark = pytest.mark.usefixtures("as_a_user")


def arguments(change: dict[str, Any]) -> dict[str, Any]:
    return {"q": ones(Q), "k": ones(KV), "v": ones(KV), "block_mask": ones(MASK, dtype=torch.bool)} | change


def says(words: tuple[str, ...], operator: str, call: Callable[[], Any]) -> None:
    with pytest.raises(Refusal) as refused:
        call()
    assert str(refused.value).startswith(f"{operator}: wanted ")
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_and_says_what_to_do(name: str) -> None:
    change, words = REFUSED[name]
    says(words, "block_sparse_attention", lambda: block_sparse_attention_with_lse(**arguments(change)))


@pytest.mark.parametrize("name", [*SHARED, *ALIKE])
def test_the_block_maximum_refuses_alike(name: str) -> None:
    change, words = REFUSED[name]
    given = {key: value for key, value in arguments(change).items() if key not in {"v", "block_mask"}}
    says(words, "block_max_attention", lambda: block_max_attention(**given))


@pytest.mark.parametrize("name", RULES)
def test_rules_refuse(name: str) -> None:
    call, words = RULES[name]
    operator = "threshold_blocks" if name.startswith("threshold") else "top_blocks"
    says(words, "block_max_attention" if name == "normalise" else operator, call)


def test_a_thousand_calls_refuse_or_give_numbers() -> None:
    """Sizes, dtypes and options at random, right and wrong: nothing but a Refusal, and no NaN without one in."""
    rng, refused = random.Random(0), 0
    for _ in range(1000):
        given = _draw(rng)
        poisoned = any(x.isnan().any() for x in given.values() if isinstance(x, torch.Tensor) and x.is_floating_point())
        try:
            out, lse = block_sparse_attention_with_lse(**given)
        except Refusal:
            refused += 1
            continue
        assert poisoned or not (out.isnan().any() or lse.isnan().any())
        assert out.shape == (*given["q"].shape[:3], given["v"].shape[3])
        target = block_max_attention(given["q"], given["k"], block=given["block"], normalise=True)
        assert poisoned or not target.isnan().any()
    assert 250 < refused < 750


def _draw(rng: random.Random) -> dict[str, Any]:
    B, G, R, T, S = (rng.choice(sizes) for sizes in ((1, 2), (1, 2), (1, 3), (1, 5, 17, 40), (1, 5, 17, 40)))
    K, V, block = rng.choice((1, 4)), rng.choice((1, 4)), rng.choice((1, 4, 16, 64))
    dtype = rng.choice((torch.float32, torch.float16, torch.bfloat16, torch.float64))
    size = rng.choice((1.0, 1.0, 30.0, 1e-6))
    shapes = {"q": [B, G * R, T, K], "k": [B, G, S, K], "v": [B, G, S, V]}
    generator = torch.Generator().manual_seed(rng.randrange(1 << 30))
    heads = rng.choice((G, G * R))
    mask = torch.rand(B, heads, -(-T // block), -(-S // block), generator=generator) < rng.random()
    if rng.random() < 0.4:
        shape = shapes[rng.choice("qkv")]
        shape[rng.randrange(4)] = rng.choice((0, 1, 3, 5))
    given: dict[str, Any] = {
        name: (size * torch.randn(shape, generator=generator)).to(dtype) for name, shape in shapes.items()
    }
    if rng.random() < 0.1:
        x = given[rng.choice("qkv")]
        x[(slice(0, 1),) * x.dim()] = float("nan")
    given |= {"block_mask": mask, "block": block, "causal": rng.random() < 0.7}
    if rng.random() < 0.2:
        wrong = {
            "scale": float("inf"),
            "block": block + 1,
            "block_mask": mask.float(),
            "causal": None,
            "v": None,
            "impl": "fast",
        }
        name = rng.choice(sorted(wrong))
        given[name] = wrong[name]
    return given
