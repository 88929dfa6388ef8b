"""Triton in its interpreter: the kernels of this lesson run on the CPU, one program after another, in numpy."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Any

from gatescope.errors import Refusal
from gatescope.views.style import Html, card

_SWITCH = "TRITON_INTERPRET"


def available() -> bool:
    """Whether Triton is installed; it is published for Linux only."""
    return find_spec("triton") is not None


def absent() -> Html:
    """What a learner is told, in every place that would have run a kernel, where there is no Triton."""
    return card(
        "This needs Triton, which is published for Linux and is not installed here",
        [
            "Everything can be read, and no check will ask for an answer",
            "To run it: Linux, WSL on Windows, or the container of the repository's Dockerfile",
        ],
        "",
        "gs-no-triton",
    )


class _Absent:
    """Stands for ``triton`` and ``triton.language`` where they are missing: kernels can be written, not started."""

    constexpr = object

    @staticmethod
    def jit(function: Any) -> Any:
        return function


def interpreter() -> tuple[Any, Any]:
    """``triton`` and ``triton.language``, the former set to interpret; stand-ins where Triton is not installed.

    Sets TRITON_INTERPRET, which Triton reads while it is imported. Raises Refusal when this process imported Triton
    before, to compile.
    """
    if not available():
        return _Absent(), _Absent()
    if "triton" not in sys.modules:
        os.environ[_SWITCH] = "1"
    import triton
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction

    # Triton's own functions were made when it was imported, and tell how it was then set.
    if not isinstance(tl.sigmoid, InterpretedFunction) or os.environ.get(_SWITCH) != "1":
        raise Refusal(
            "interpreter",
            "a process in which Triton interprets",
            "one that imported Triton to compile",
            f"restart the kernel and run this cell first, or set {_SWITCH}=1 before Python starts",
        )
    return triton, tl
