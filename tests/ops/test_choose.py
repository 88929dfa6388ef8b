"""Which implementation runs: the one that is named or a Refusal, and for "auto" the fastest that knows the case."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from gatescope_kernels import Refusal, polynorm
from gatescope_kernels.ops import _launch
from gatescope_kernels.ops._common import choose
from gatescope_kernels.ops._launch import INTERPRETER, launch, precision, recording, target
from gatescope_kernels.targets import MACHINES

IMPLEMENTATIONS = {"reference": "the reference", "blockwise": "the blocks", "fused": "the kernels"}


def on_a_gpu(dtype: torch.dtype = torch.bfloat16) -> SimpleNamespace:
    return SimpleNamespace(is_cuda=True, dtype=dtype, device=torch.device("cuda"))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.mark.usefixtures("as_a_user", "compiled")
@pytest.mark.parametrize(
    ("x", "unfit", "wanted"),
    [
        (torch.zeros(2), None, "the blocks"),
        (on_a_gpu(), None, "the kernels"),
        (on_a_gpu(torch.float64), None, "the blocks"),
        (on_a_gpu(), ("narrow rows", "wide ones"), "the blocks"),
    ],
)
def test_auto(x: object, unfit: tuple[str, str] | None, wanted: str) -> None:
    assert choose("op", "auto", IMPLEMENTATIONS, x, unfit) == wanted


@pytest.mark.usefixtures("as_a_user", "compiled")
def test_a_name_is_taken_at_its_word() -> None:
    for impl, wanted in IMPLEMENTATIONS.items():
        assert choose("op", impl, IMPLEMENTATIONS, on_a_gpu()) == wanted


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("x", "unfit", "interpret", "words"),
    [
        (torch.zeros(2), None, "0", "tensors on a GPU, got cpu; use impl='auto', or set TRITON_INTERPRET=1"),
        (torch.zeros(2).double(), None, "1", "float16, bfloat16 or float32, got torch.float64; use impl='blockwise'"),
        (torch.zeros(2).bfloat16(), None, "1", "interpreter, got bfloat16, which it gets wrong; unset"),
        (
            on_a_gpu(),
            ("narrow rows", "wide ones"),
            "0",
            "for impl='fused': narrow rows, got wide ones; use impl='auto'",
        ),
    ],
)
def test_fused_says_why_it_cannot_run(
    x: object, unfit: tuple[str, str] | None, interpret: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", interpret)
    with pytest.raises(Refusal) as refused:
        choose("op", "fused", IMPLEMENTATIONS, x, unfit)
    assert words in str(refused.value)


def test_without_triton_fused_says_so_and_auto_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_launch, "_has_triton", lambda: False)
    with pytest.raises(Refusal, match="Triton, which is published for Linux, got none installed"):
        polynorm(torch.zeros(2, 4), torch.ones(3), impl="fused")
    assert polynorm(torch.zeros(2, 4), torch.ones(3)).tolist() == [[0.0] * 4] * 2


def test_products_of_float32_stay_exact() -> None:
    x = torch.zeros(2)
    assert {name: _precision(machine.target, x) for name, machine in MACHINES.items()} == {
        "sm_80": "tf32x3",
        "sm_90": "tf32x3",
        "sm_100": "tf32x3",
        "gfx942": "ieee",
    }
    assert _precision(MACHINES["sm_90"].target, x.half()) == "ieee"


def _precision(machine: _launch.Target, x: torch.Tensor) -> str:
    with recording(machine):
        assert target(x) == machine
        return precision(x)


class Kernel:
    __name__ = "kernel"
    arg_names = ("x_ptr", "N", "BLOCK")


def test_a_recorded_launch_starts_nothing_and_misses_nothing() -> None:
    x = torch.zeros(3)
    with recording(INTERPRETER) as record:
        launch(Kernel(), (1,), x, 3, BLOCK=16)
        with pytest.raises(TypeError, match="kernel is started without BLOCK"):
            launch(Kernel(), (1,), x, 3)
    assert record.launches[0].arguments == {"x_ptr": x, "N": 3, "BLOCK": 16}
