"""One version everywhere: what pyproject.toml says is the newest release of the changelog and what is cited."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from gatescope import __version__

HEADING = re.compile(r"^## (?:(Unreleased)|(\d+\.\d+\.\d+) \((\d{4}-\d\d-\d\d)\))$")


@pytest.fixture(scope="module")
def sections(root: Path) -> list[tuple[str, str]]:
    """(version, date) of every section of the changelog in its order; Unreleased has neither."""
    lines = (root / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    headings = [line for line in lines if line.startswith("## ")]
    assert [line for line in headings if not HEADING.match(line)] == []
    return [match.group(2, 3) for line in headings if (match := HEADING.match(line))]


def test_the_newest_release_is_this_version(root: Path, sections: list[tuple[str, str]]) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    version, date = sections[1]
    assert (project["version"], __version__, citation["version"]) == (version, version, version)
    assert str(citation["date-released"]) == date


def test_what_is_unreleased_stands_on_top_and_releases_newest_first(sections: list[tuple[str, str]]) -> None:
    assert sections[0] == (None, None)
    released = [(tuple(map(int, version.split("."))), date) for version, date in sections[1:]]
    assert released == sorted(set(released), reverse=True)


def test_every_release_says_what_changed(root: Path) -> None:
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    for body in re.split(r"^## .*$", text, flags=re.MULTILINE)[2:]:
        assert body.strip().startswith("- ")


def test_the_recipe_of_a_release_names_what_holds_the_version(root: Path) -> None:
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Releasing\n", 1)[1].split("\n## ", 1)[0]
    for name in ("CHANGELOG.md", "pyproject.toml", "toolkit/gatescope/__init__.py", "CITATION.cff"):
        assert f"`{name}`" in text
        assert (root / name).is_file()
