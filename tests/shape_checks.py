"""The run-time type checker that conftest.py installs behind every annotated function of the three packages."""

from __future__ import annotations

from typing import Any

from beartype import beartype


def checked(function: Any) -> Any:
    """``beartype``, which leaves out hints with ``Self``: seeing one method at a time, it cannot know the class."""
    hints = getattr(function, "__annotations__", {})
    known = {name: hint for name, hint in hints.items() if "Self" not in str(hint)}
    if len(known) < len(hints):
        function.__annotations__ = known
    return beartype(function)
