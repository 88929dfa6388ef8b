"""Packed documents: each computed alone is the oracle; and what packing costs."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from gatescope_kernels import STATISTICS, Visibility, gated_attention, gated_attention_with_stats
from gatescope_kernels.ops._table import GATED_ATTENTION
from gatescope_kernels.ops.gated_attention import flash, strips
from gatescope_kernels.ops.gated_attention.validate import resolve
from torch import Tensor

IMPLS = [impl for impl in GATED_ATTENTION.implementations if impl != "fused"]
PACKINGS = {
    "one_packing": [[50, 17, 63]] * 2,
    "two_packings": [[1, 69, 60], [130]],
    "one_token_each": [[1] * 70, [20] + [1] * 50],
}
CALLS: dict[str, dict[str, Any]] = {
    "causal": {},
    "encoder": {"visibility": Visibility(causal=False), "sink": 0.0},
    "streaming": {"visibility": Visibility(window=9, sink_tokens=4)},
    "many_sink_tokens": {"visibility": Visibility(window=2, sink_tokens=40)},
    "two_sided": {"visibility": Visibility(causal=False, window=5, sink_tokens=30), "sink": 0.3},
    "padding": {"key_mask": 0.6},
    "padding_window": {"key_mask": 0.6, "visibility": Visibility(window=70, sink_tokens=2)},
    "output_alone": {"stats": ()},
    "output_of_encoder": {"stats": (), "visibility": Visibility(causal=False)},
    "mass_alone": {"stats": ("mass",), "sink": 0.3},
}


def ids(lengths: list[int]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))


def inputs(B: int, T: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"q": (B, 4, T, 8), "k": (B, 2, T, 8), "v": (B, 2, T, 8), "gate": (B, 4, T, 8)}
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for name, shape in shapes.items()
    }


def results(out: Tensor, stats: Any) -> dict[str, Tensor]:
    named = {"out": out} | {name: getattr(stats, name) for name in ("lse", "visible", *STATISTICS, "sink_mass")}
    return {name: x for name, x in named.items() if x is not None}


def alone(arguments: dict[str, Any], lengths: list[list[int]], keys: tuple[int, ...]) -> dict[str, Tensor]:
    """The results of each document by itself, one after the other; a key that it lacks has mass 0."""
    samples = []
    for b, of_sample in enumerate(lengths):
        ends = [sum(of_sample[:n]) for n in range(len(of_sample) + 1)]
        parts = []
        for i0, i1 in pairwise(ends):
            options = dict(arguments)
            for name in ("q", "k", "v", "gate"):
                options[name] = arguments[name][b : b + 1, :, i0:i1]
            if "key_mask" in options:
                options["key_mask"] = arguments["key_mask"][b : b + 1, i0:i1]
            own = tuple(key for key in keys if key < i1 - i0)
            found = results(*gated_attention_with_stats(**options, keys=own, impl="reference"))
            if "mass" in found:
                found["mass"] = torch.nn.functional.pad(found["mass"], (0, len(keys) - len(own)))
            parts.append(found)
        positions = {"out": 2, "mass": 2}
        samples.append({name: torch.cat([part[name] for part in parts], positions.get(name, -1)) for name in parts[0]})
    return {name: torch.cat([sample[name] for sample in samples]) for name in samples[0]}


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("packing", PACKINGS)
def test_equals_each_document_alone(impl: str, call: str, packing: str) -> None:
    """Values and gradients of everything."""
    lengths, keys = PACKINGS[packing], (0, 3, 60)
    documents = torch.stack([ids(of_sample) for of_sample in lengths])
    B, T = documents.shape
    arguments: dict[str, Any] = inputs(B, T) | CALLS[call]
    if "key_mask" in arguments:
        generator = torch.Generator().manual_seed(1)
        arguments["key_mask"] = torch.rand(B, T, generator=generator) < arguments["key_mask"]
    leaves = [arguments[name] for name in ("q", "k", "v", "gate")]
    grads = []
    wanted = alone(arguments, lengths, keys)
    got = results(*gated_attention_with_stats(**arguments, documents=documents, keys=keys, impl=impl))
    for found in (wanted, got):
        used = [x.masked_fill(x == -torch.inf, 0.0) for x in found.values() if x.requires_grad]
        grads.append(torch.autograd.grad(sum((x.sin() * (1 + x)).sum() for x in used), leaves))
    assert got.keys() == wanted.keys()
    for name, x in wanted.items():
        torch.testing.assert_close(got[name], x, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(grads[1], grads[0])


@pytest.mark.parametrize("impl", IMPLS)
def test_no_document_reads_another(impl: str) -> None:
    """A NaN key of one document is nowhere in the others; the kernel and the strips both see to that."""
    arguments = {name: x.detach() for name, x in inputs(1, 40).items()}
    arguments["k"][:, :, 15] = torch.nan
    for stats in ((), STATISTICS):
        out, found = gated_attention_with_stats(**arguments, documents=ids([10, 20, 10])[None], stats=stats, impl=impl)
        rows = out.isnan().any(-1).any(1)[0].nonzero().flatten().tolist()
        assert rows == list(range(15, 30))
        assert found.lse.isnan().any(1)[0].nonzero().flatten().tolist() == rows


@pytest.mark.parametrize("impl", IMPLS)
def test_ids_of_cu_seqlens_as_the_docstring_says(impl: str) -> None:
    q = torch.ones(1, 1, 6, 4)
    cu_seqlens = torch.tensor([0, 2, 3, 6])
    documents = torch.repeat_interleave(torch.arange(3), cu_seqlens.diff())[None]
    _, stats = gated_attention_with_stats(q, q, q, documents=documents, impl=impl)
    assert stats.visible.tolist() == [[1, 2, 1, 1, 2, 3]]
    assert stats.mass[0, 0, :, 0].tolist() == pytest.approx([1, 1 / 2, 1, 1, 1 / 2, 1 / 3])


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
def test_a_padded_batch_is_one_more_document(dtype: torch.dtype) -> None:
    """The text of each sample has the same results as under a key mask."""
    arguments, lengths = inputs(2, 30), (30, 11)
    text = torch.arange(30) < torch.tensor(lengths)[:, None]
    masked = gated_attention(**arguments, key_mask=text)
    packed = gated_attention(**arguments, documents=(~text).to(dtype))
    for b, length in enumerate(lengths):
        torch.testing.assert_close(packed[b, :, :length], masked[b, :, :length])


def scores_visited(T: int, documents: Tensor | None, **options: Any) -> int:
    x = torch.empty(1 if documents is None else documents.shape[0], 1, T, 4)
    rule = Visibility(**options)
    problem, _ = resolve(x, x, x, None, "multiply", None, rule, None, documents, None, None, STATISTICS, (0,))
    return sum((s.n1 - s.n0) * (s.i1 - s.i0) * s.width for s in strips.strips(problem))


@pytest.mark.parametrize("options", [{}, {"causal": False}, {"window": 100, "sink_tokens": 3}], ids=str)
def test_documents_cost_what_they_would_alone(options: dict[str, Any]) -> None:
    """Row blocks that cross documents make up the difference: at most ROWS scores a row on either side."""
    lengths = [256, 300, 90, 600, 10, 280]
    T = sum(lengths)
    one_by_one = sum(scores_visited(length, None, **options) for length in lengths)
    visited = scores_visited(T, ids(lengths)[None], **options)
    assert visited <= one_by_one + 2 * strips.ROWS * T
    assert visited < scores_visited(T, None, **options) or "window" in options
    shifted = torch.stack([ids(lengths), ids(lengths[::-1])])
    assert scores_visited(T, shifted, **options) <= 2 * (one_by_one + 2 * strips.ROWS * T)


def test_short_documents_cost_a_strip_of_a_block() -> None:
    T = 4096
    assert scores_visited(T, (torch.arange(T) // 16)[None]) == T * strips.ROWS
    assert scores_visited(T, (torch.arange(T) // 256)[None]) == scores_visited(256, None) * (T // 256)


@pytest.mark.parametrize(
    ("lengths", "unread", "calls"),
    [
        ([[64, 66]] * 3, None, 2),
        ([[64, 66], [130]], None, 3),
        ([[100, 30], [130]], [30, 0], 2),
        ([[2] * 65], None, None),
        (None, [0, 7, 7], 2),
        (None, [130, 4], 1),
    ],
    ids=["one_packing", "two_packings", "a_document_of_padding", "too_short", "padding", "all_padding"],
)
def test_calls_of_the_flash_kernel(
    lengths: list[list[int]] | None, unread: list[int] | None, calls: int | None
) -> None:
    """A call a document, samples that are alike together, none for what sees nothing; strips where it does not pay."""
    T, B = 130, len(lengths or unread or [])
    x = torch.empty(B, 1, T, 4)
    documents = None if lengths is None else torch.stack([ids(of_sample) for of_sample in lengths])
    key_mask = None if unread is None else torch.arange(T) < T - torch.tensor(unread)[:, None]
    problem, _ = resolve(x, x, x, None, "multiply", None, Visibility(), key_mask, documents, None, None, (), ())
    found = flash.flash_calls(x, x, problem)
    assert (None if found is None else len(found)) == calls


def test_padding_in_the_middle_is_left_to_strips() -> None:
    x, key_mask = torch.empty(1, 1, 130, 4), torch.ones(1, 130, dtype=torch.bool)
    key_mask[0, 50] = False
    problem, _ = resolve(x, x, x, None, "multiply", None, Visibility(), key_mask, None, None, None, (), ())
    assert flash.flash_calls(x, x, problem) is None
