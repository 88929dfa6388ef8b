"""Text of tokens and names as it can be shown: nothing invisible, nothing that steers a terminal or a page."""

from __future__ import annotations

from gatescope.models.smollm2.tokenizer import MARKS


def visible(text: str, *, marks: bool = True) -> str:
    r"""``text`` with what does not print as a Python escape (\x1b, \u202e); ``marks`` shows space, newline and tab."""
    shown = text.translate(MARKS) if marks else text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in shown
    )


__all__ = ["visible"]
