"""Generated places in a Markdown file, between ``<!-- name:begin -->`` and ``<!-- name:end -->``."""

from __future__ import annotations

import re
from pathlib import Path

from gatescope.errors import DataError
from gatescope.paths import atomic_write


def marked(path: Path, name: str) -> str:
    """What stands in the place now. Raises DataError unless the file has exactly one such place."""
    return _found(path, name)[1].group(1).removesuffix("\n")


def with_marked(path: Path, name: str, content: str) -> str:
    """The file's text with ``content`` in the place. Raises DataError unless the file has exactly one such place."""
    text, place = _found(path, name)
    return f"{text[: place.start(1)]}{content}\n{text[place.end(1) :]}"


def rewrite(path: Path, name: str, content: str) -> None:
    """Put ``content`` into the place, the file whole or not at all. Raises DataError as `with_marked` does."""
    text = with_marked(path, name, content)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _found(path: Path, name: str) -> tuple[str, re.Match[str]]:
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    places = list(re.finditer(f"{re.escape(begin)}\n(.*?){re.escape(end)}", text, re.DOTALL))
    if len(places) != 1:
        got = f"{len(places)} such places" if path.is_file() else "no such file"
        raise DataError(path.name, f"one place between {begin} and {end}", got, "add the two marks, a line each")
    return text, places[0]
