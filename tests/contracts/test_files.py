"""What may be committed: sizes, no local paths, no leftovers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

LARGEST_FILE = 8 * 1024**2
LONGEST_SOURCE = 600
THIS = Path(__file__).name

LOCAL = "an absolute local path"
FORBIDDEN = {
    LOCAL: rb"(?<![\w.:/])/(?:root|home/\w+|Users/\w+|work/main|work/shared|opt/wheels)\b",
    "a folder outside the checkout": rb"\.\./shared\b",
    "the host of a package registry": rb"(?i)\b(?:pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)|deb\.debian\.org)\b",
    "a leftover": rb"\b(?:TODO|FIXME|XXX|HACK)\b",
    "a word on how this was made": rb"(?i)\b(?:claude|chatgpt|copilot|sub-?agents?|issue (?:no\. ?)?#?\d+)\b",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_tracked_file_holds(tracked: list[Path], root: Path, what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{path}:{content[: match.start()].count(10) + 1} {match.group().decode(errors='replace')}"
        for path in tracked
        if path.name not in {THIS, "LICENSE"}
        for content in [(root / path).read_bytes()]
        if what == LOCAL or b"\0" not in content  # weights hold any three letters by chance, but no path
        for match in pattern.finditer(content)
    ]
    assert found == []


def test_no_tracked_file_is_large(tracked: list[Path], root: Path) -> None:
    large = {str(path): size for path in tracked if (size := (root / path).stat().st_size) > LARGEST_FILE}
    assert large == {}


def test_no_source_is_long(tracked: list[Path], root: Path) -> None:
    lines = {path: (root / path).read_text(encoding="utf-8").count("\n") for path in tracked if path.suffix == ".py"}
    assert {str(path): count for path, count in lines.items() if count > LONGEST_SOURCE} == {}


def test_tests_do_not_lie_where_they_would_shadow_a_package(root: Path) -> None:
    assert not (root / "tests" / "kernels").exists()


def test_data_is_as_its_manifest_says() -> None:
    from gatescope import data

    assert data.audit() == []
