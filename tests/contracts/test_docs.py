"""The README promises only what is there."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

DOCS = (
    "README.md",
    "CONTRIBUTING.md",
    "DECISIONS.md",
    "CHANGELOG.md",
    "docs/systems.md",
    "docs/class.md",
    "docs/hosting.md",
    "docs/studies.md",
    "kernels/gatescope_kernels/README.md",
)


@pytest.fixture(scope="module")
def targets(root: Path) -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("doc", DOCS)
def test_commands_in_the_docs_exist(root: Path, targets: set[str], doc: str) -> None:
    text = (root / doc).read_text(encoding="utf-8")
    entry_points = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert named - targets == set()
    shell = "".join(
        f"`{line}" for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()
    )
    subcommands = set(re.findall(r"`(?:\.venv/bin/)?gatescope ([a-z][a-z-]*)", text + shell))
    assert subcommands - entry_points["gatescope.commands"].keys() == set()


def test_the_readme_names_every_target(root: Path, targets: set[str]) -> None:
    named = set(re.findall(r"`make ([a-z-]+)", (root / "README.md").read_text(encoding="utf-8")))
    assert targets - named - {"help", "setup", "setup-dev"} == set()


@pytest.mark.parametrize("doc", DOCS)
def test_links_inside_the_repository_lead_somewhere(root: Path, doc: str) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", (root / doc).read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not ((root / doc).parent / link).exists()] == []


def test_names_in_the_readme_can_be_imported(root: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    imports = [line for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    for line in (line for line in imports if line.startswith(("from ", "import "))):
        ast.parse(line)
        exec(line, {})


def test_the_scoreboard_has_its_place(root: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    assert text.count("<!-- claims:begin -->") == text.count("<!-- claims:end -->") == 1
    assert text.index("<!-- claims:begin -->") < text.index("<!-- claims:end -->")


@pytest.mark.parametrize("doc", ["CONTRIBUTING.md"])
def test_folders_named_in_the_recipes_exist(root: Path, doc: str) -> None:
    named = set(re.findall(r"`((?:toolkit|kernels|lessons|tests|data)/[\w/.]+)`", (root / doc).read_text("utf-8")))
    assert {path for path in named if not (root / path).exists()} == set()
