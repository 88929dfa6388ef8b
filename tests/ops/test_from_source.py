"""A kernel given as text compiles in a process of its own, whatever this one does with Triton."""

from __future__ import annotations

import pytest
import torch
from gatescope_kernels import Refusal, compile_source

DOUBLE = """@triton.jit
def double(x_ptr, out_ptr, n, BLOCK: tl.constexpr, FACTOR: tl.constexpr = 2.0):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, FACTOR * tl.load(x_ptr + i, mask=i < n), mask=i < n)
"""
X = torch.empty(64, dtype=torch.float16)
ARGUMENTS = {"x_ptr": X, "out_ptr": X, "n": 60, "BLOCK": 64}


def test_the_binaries_say_what_they_take(require) -> None:
    require("triton")
    nvidia, amd = compile_source(DOUBLE, "double", ARGUMENTS, ("sm_80", "gfx942"), warps=2)
    assert (nvidia.kernel, nvidia.target, amd.target) == ("double", "sm_80", "gfx942")
    for binary in (nvidia, amd):
        assert binary.registers > 0
        assert (binary.spilled, binary.products, binary.warps) == (0, 0, 2)


def test_what_does_not_compile_is_told_in_the_words_of_the_compiler(require) -> None:
    require("triton")
    with pytest.raises(Refusal, match=r"double to compile.*unknown_name"):
        compile_source(DOUBLE.replace("FACTOR *", "unknown_name *"), "double", ARGUMENTS, ("sm_80",))


@pytest.mark.parametrize(
    ("arguments", "targets", "told"),
    [(ARGUMENTS, ("sm_1",), "targets among sm_80"), ({"n": 60}, ("sm_80",), "a value of x_ptr, out_ptr, BLOCK")],
)
def test_what_is_missing_or_unknown_is_refused(arguments, targets, told, require) -> None:
    require("triton")
    with pytest.raises(Refusal, match=told):
        compile_source(DOUBLE, "double", arguments, targets)


def test_without_triton_it_says_where_to_run(monkeypatch) -> None:
    monkeypatch.setattr("gatescope_kernels.from_source.find_spec", lambda name: None)
    with pytest.raises(Refusal, match="published for Linux"):
        compile_source(DOUBLE, "double", ARGUMENTS)
