"""Lesson 15: every usual mistake of a kernel is named, and the right kernel passes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from gatescope.errors import Refusal
from gatescope_lessons.l15_fused_gate_kernel import checks
from gatescope_lessons.l15_fused_gate_kernel.interpreter import interpreter


class Flawed:
    """A kernel that makes one mistake, started as any other."""

    def __init__(self, kernel: Any, mistake: str) -> None:
        self.kernel, self.fn, self.mistake = kernel, kernel.fn, mistake

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *values, **constants: self.kernel[grid](*values, **constants, MISTAKE=self.mistake)


@pytest.fixture(scope="module")
def flawed(require) -> ModuleType:
    require("triton")
    try:
        interpreter()
    except Refusal as refusal:
        pytest.skip(f"Triton compiles in this process, for a GPU; run this file with TRITON_INTERPRET=1 ({refusal})")
    path = Path(__file__).with_name("l15_flawed.py")
    spec = importlib.util.spec_from_file_location("l15_flawed", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["l15_flawed"] = module
    spec.loader.exec_module(module)
    return module


MISTAKES = {
    "sigmoid_block": {
        "": None,
        "axis": "tl.program_id(1) is 0 in every program",
        "no program": "elements of out are never written, element 16 first",
        "one more": "past its last (program 2): mask the load",
        "no load mask": "the load of x has no mask",
        "undefined": "NaN from lanes that were masked out",
        "half": "exp and sigmoid take float32, and the input was float16",
        "sign": "the sign in exp(-x) is lost",
        "overflow": "nan at element 0",
        "identity": "this is x itself",
        "no store mask": "the store of out has no mask",
        "no store": "nothing is written to out",
        "shift": "before its first (program 0): mask the store",
    },
    "gate_tile": {
        "": None,
        "axes": "the axes of the grid are swapped",
        "no mask": "the load of y has no mask: ",
        "no row mask": "no mask for the axis of T",
        "no column mask": "no mask for the axis of V",
        "packed": "takes it for one with its rows packed one after another",
        "other strides": "the load of y uses the strides of out",
        "swapped strides": "has its two strides swapped",
        "logit packed": "the load of logit takes it for one with its rows packed",
        "no gate": "the gate is missing: out is y",
        "no sigmoid": "the gate must go through a sigmoid",
    },
    "online_softmax": {
        "": None,
        "zero": "wrong around -300: every exp is 0 when the maximum starts at 0",
        "padding": "the lanes past S count as scores of 0",
        "no maximum": "wrong around +300: exp overflows",
        "upside down": "rescaled the wrong way round",
        "sum": "the sum of the weights is not rescaled",
        "average": "the weighted sum of the values is not rescaled",
        "both": "the sums are never rescaled",
        "last": "only the last block counts",
        "no division": "the division by the sum of the weights is missing",
    },
    "gated_attention": {
        "": None,
        "no key mask": "elements that are not v's, past its last",
        "undefined": "NaN from lanes that were masked out",
        "value gate": "the gate multiplies the values",
        "no scale": "the scores are not scaled",
        "no mask": "there is no causal mask",
        "strict": "off by one: a query must see its own key",
        "ahead": "off by one: a query sees the key after its own",
        "no maximum": "wrong for scores in the hundreds",
        "sum": "total is not rescaled",
        "average": "acc is not rescaled",
        "both": "neither acc nor total is rescaled",
        "loop": "the gate stands inside the loop",
        "loop, all keys": "the gate stands inside the loop",
        "no division": "the division by total is missing",
        "no sigmoid": "the gate must go through a sigmoid",
        "no gate": "the gate is missing",
        "no store mask": "elements that are not out's, past its last",
    },
    "gate_backward": {
        "": None,
        "dy is dout": "dy: dout alone",
        "no slope": "dlogit: this is the gradient of the gate",
        "slope g": "g (1 - g), not g",
        "no y": "y is missing",
        "out for y": "this takes out for y",
        "swapped": "are the two results swapped?",
        "no dlogit": "nothing is written to dlogit",
    },
}


@pytest.mark.parametrize(("name", "mistake"), [(name, each) for name, known in MISTAKES.items() for each in known])
def test_a_mistake_is_named(name, mistake, flawed, expect_diagnosis) -> None:
    expect_diagnosis(getattr(checks, name), Flawed(getattr(flawed, name), mistake), MISTAKES[name][mistake])


def test_an_error_is_told_with_its_line(flawed) -> None:
    told = checks.sigmoid_block(Flawed(flawed.sigmoid_block, "half")).detail
    assert "y = tl.sigmoid(x)" in told


def test_a_function_without_jit_is_no_kernel(require) -> None:
    require("triton")
    assert "@triton.jit" in checks.gate_tile(lambda *arguments: sum(arguments)).detail
