"""The run-time type checker that conftest.py installs behind every annotated function of the three packages."""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from typing import Any

from beartype import beartype


def checked(function: Any) -> Any:
    """``beartype``, which leaves out hints with ``Self``: seeing one method at a time, it cannot know the class."""
    hints = getattr(function, "__annotations__", {})
    known = {name: hint for name, hint in hints.items() if "Self" not in str(hint)}
    if len(known) < len(hints):
        function.__annotations__ = known
    return beartype(function)


def leave_kernels_alone() -> None:
    """Make ``triton.jit`` see through the checker: a kernel is read as source, and its wrapper has another."""
    if find_spec("triton") is None:
        return
    import triton

    jit = triton.jit

    def of_the_function_itself(function: Any = None, **options: Any) -> Any:
        if function is None:
            return lambda function: of_the_function_itself(function, **options)
        return jit(inspect.unwrap(function), **options)

    triton.jit = of_the_function_itself
