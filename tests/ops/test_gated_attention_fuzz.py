"""Gated attention on more than a thousand small random calls: right, refused, or NaN where it was fed NaN."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from gatescope_kernels import STATISTICS, Refusal, Visibility, gated_attention_with_stats
from torch import Tensor

SIZES = (1, 1, 2, 3, 5, 8, 13, 17)
CHUNKS, CASES = 10, 100


def made_up(draw: Random) -> dict[str, Any]:
    """One call that is to work, in float64. Every option is there in a good part of the calls."""
    generator = torch.Generator().manual_seed(draw.getrandbits(32))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def maybe(value: Any, share: float = 0.5) -> Any:
        return value if draw.random() < share else None

    packed = draw.random() < 0.5
    T = draw.choice(SIZES)
    S = T if packed or draw.random() < 0.5 else draw.choice(SIZES)
    B, G, R, K = draw.choice((1, 2, 3)), draw.choice((1, 2)), draw.choice((1, 3)), draw.choice((1, 2, 7))
    H, V = G * R, K if draw.random() < 0.6 else draw.choice((1, 4))
    documents = (torch.rand(B, T, generator=generator) < draw.choice((0.0, 0.1, 0.4, 1.0))).cumsum(1) - 2
    key_mask = torch.rand(B, S, generator=generator) < draw.choice((0.2, 0.8, 1.0))
    if draw.random() < 0.5:
        key_mask = key_mask.sort(dim=1, descending=True).values
    stats = tuple(name for name in STATISTICS if draw.random() < 0.5)
    return {
        "q": normal(B, H, T, K) * draw.choice((0.0, 1.0, 1.0, 40.0)),
        "k": normal(B, G, S, K),
        "v": normal(B, G, S, V),
        "gate": maybe(normal(B, H, T, draw.choice((1, V)))),
        "combine": draw.choice(("multiply", "add")),
        "sink": draw.choice((None, 0.0, -30.0, normal(H))),
        "visibility": Visibility(
            causal=draw.random() < 0.6,
            window=maybe(draw.choice((1, 2, 4, 9, 200))),
            sink_tokens=draw.choice((0, 0, 1, 3, 70)),
        ),
        "key_mask": maybe(key_mask),
        "documents": documents if packed else None,
        "scale": maybe(draw.choice((0.0, -1.0, 3.0)), 0.2),
        "stats": () if draw.random() < 0.3 else stats,
        "keys": tuple(draw.randrange(S) for _ in range(draw.randrange(4))),
    }


def run(call: dict[str, Any], impl: str) -> dict[str, Tensor]:
    out, stats = gated_attention_with_stats(**call, impl=impl)
    named = {"out": out} | {name: getattr(stats, name) for name in ("visible", "lse", *STATISTICS, "sink_mass")}
    return {name: x for name, x in named.items() if x is not None}


def gradients(call: dict[str, Any], found: dict[str, Tensor]) -> tuple[Tensor, ...]:
    leaves = [x for x in call.values() if isinstance(x, Tensor) and x.requires_grad]
    used = [x.masked_fill(x == -torch.inf, 0.0) for x in found.values() if x.requires_grad]
    return torch.autograd.grad(sum((x * x.detach().cos()).sum() for x in used), leaves, materialize_grads=True)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_made_up_call_is_right(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every result against the reference, every fifth call with gradients; results are finite, but for empty rows."""
    for number in range(CASES):
        draw = Random(chunk * CASES + number)
        call = made_up(draw)
        monkeypatch.setattr("gatescope_kernels.ops.gated_attention.strips.ROWS", draw.choice((3, 64)))
        monkeypatch.setattr("gatescope_kernels.ops.gated_attention.strips.ELEMENTS", draw.choice((1, 1 << 20)))
        monkeypatch.setattr("gatescope_kernels.ops.gated_attention.flash.CALLS_A_STRIP", draw.choice((0, 4, 99)))
        if number % 5 == 0:
            call = {
                name: x.requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x
                for name, x in call.items()
            }
        wanted, got = run(call, "reference"), run(call, "blockwise")
        assert got.keys() == wanted.keys()
        for name, x in wanted.items():
            assert x.isfinite().logical_or(x == -torch.inf).all(), (number, name)
            torch.testing.assert_close(got[name], x, msg=lambda text, at=(number, name): f"{at}: {text}")
        if number % 5 == 0:
            torch.testing.assert_close(gradients(call, got), gradients(call, wanted))


@pytest.mark.parametrize("chunk", range(2))
def test_a_made_up_call_is_right_in_triton(chunk: int) -> None:
    """In float32, on the same numbers as the float64 reference, gradients included."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for number in range(4):
        draw = Random(50_000 + 4 * chunk + number)
        call = made_up(draw)
        call = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in call.items()}
        found, grads = [], []
        for impl, dtype in (("reference", torch.float64), ("fused", torch.float32)):
            own = {
                name: x.float().to(dtype).requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x
                for name, x in call.items()
            }
            found.append(run(own, impl))
            grads.append(gradients(own, found[-1]))
        assert found[1].keys() == found[0].keys()
        for name, x in found[0].items():
            wanted = x.to(found[1][name].dtype)
            torch.testing.assert_close(found[1][name], wanted, atol=1e-4, rtol=1e-4, msg=f"{number} {name}")
        for wanted, got in zip(*grads, strict=True):
            size = max(1.0, wanted.abs().max().item())
            torch.testing.assert_close(got.double() / size, wanted / size, atol=1e-4, rtol=0.0, msg=f"{number}")


SPOILED = ("rank", "cut", "dtype", "type")


@pytest.mark.usefixtures("as_a_user")
def test_a_spoiled_call_is_refused() -> None:
    """One argument of a good call loses its shape, dtype or type: a Refusal, never another exception or a result."""
    for number in range(300):
        draw = Random(-1 - number)
        call = made_up(draw)
        name = draw.choice([name for name, x in call.items() if isinstance(x, Tensor)])
        x, how = call[name], draw.choice(SPOILED)
        if how == "type":
            call[name] = "abc" if name == "sink" else x.tolist()
        elif how == "dtype":
            call[name] = x.to(torch.complex64)
        elif how == "cut" and x.shape[-1] > 1:
            call[name] = x[..., :0]
        else:
            call[name] = x[None]
        for impl in ("reference", "blockwise"):
            with pytest.raises(Refusal):
                gated_attention_with_stats(**call, impl=impl)


def test_nan_shows_where_it_is_read() -> None:
    """One NaN in q, k or v: both implementations have it in the output of every row that reads it, and in the LSE of
    just these rows where it is in q or k."""
    for number in range(150):
        draw = Random(10_000 + number)
        call = made_up(draw) | {"gate": None}
        name = draw.choice("qkv")
        b, place = draw.randrange(call[name].shape[0]), draw.randrange(call[name].shape[2])
        call[name][b, :, place] = torch.nan
        seen = readers(call, name, b, place)
        for impl in ("reference", "blockwise"):
            found = run(call, impl)
            assert found["out"].isnan().all(-1).all(1)[seen].all(), (number, name, impl)
            if name != "v":
                assert torch.equal(found["lse"].isnan().any(1), seen), (number, name, impl)


def readers(call: dict[str, Any], name: str, b: int, place: int) -> Tensor:
    """[B T]: the rows that read the query, key or value at this place."""
    B, T, S = call["q"].shape[0], call["q"].shape[2], call["k"].shape[2]
    if name != "q":
        only = torch.zeros(B, S, dtype=torch.bool)
        only[b, place] = True if call["key_mask"] is None else call["key_mask"][b, place]
        call = call | {"key_mask": only}
    q, k = torch.ones(B, 1, T, 1), torch.ones(B, 1, S, 1)
    rules = {option: call[option] for option in ("visibility", "key_mask", "documents")}
    _, stats = gated_attention_with_stats(q, k, k, **rules, stats=(), impl="reference")
    seen = stats.visible > 0
    if name == "q":
        at = torch.zeros(B, T, dtype=torch.bool)
        at[b, place] = True
        return seen & at
    return seen
