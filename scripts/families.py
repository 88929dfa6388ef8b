"""Writes docs/families.md from the table of families and from what the tests of tests/taps run for each.

python scripts/families.py            writes the page
python scripts/families.py --check    exits 1 when the page is not the one written now
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from gatescope.taps import FAMILIES, SITES
from gatescope_lessons.marked import marked, rewrite

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "families.md"
_ITEM = re.compile(r"^(tests/taps/[\w/]+\.py)::(test_\w+)(?:\[(.*)\])?$")


def tests_by_family() -> dict[str, dict[str, int]]:
    """Test -> family -> how many cases pytest collects; the family "" gathers cases that name none."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/taps", "--collect-only", "-q", "-p", "no:cacheprovider"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"families: pytest could not collect tests/taps:\n{done.stdout}{done.stderr}")
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for file, name, case in (match.groups() for match in map(_ITEM.match, done.stdout.splitlines()) if match):
        family = next((part for part in (case or "").split("-") if part in FAMILIES), "")
        found[f"{file}::{name}"][family] += 1
    return found


def page() -> str:
    """The block between the marks."""
    tests = tests_by_family()
    lines = ["| family | attention takes | sites shown | cases that test it | note |", "|---|---|---|---|---|"]
    for name, row in FAMILIES.items():
        cases = sum(count.get(name, 0) for count in tests.values())
        sites = ", ".join(f"`{site}`" for site in row.sites)
        lines.append(f"| **{row.title}** (`{name}`) | {row.attends} | {sites} | {cases} | {row.note} |")
    lines += ["", "| site | shape | what passes |", "|---|---|---|"]
    lines += [f"| `{site.name}` | {site.shape} | {site.meaning} |" for site in SITES.values()]
    lines += ["", "What is tested, family by family:", "", "| test | cases | families |", "|---|---|---|"]
    for test, count in tests.items():
        named = {family for family in count if family}
        missing = [family for family in FAMILIES if family not in named]
        if not named:
            continue
        said = (
            ", ".join(sorted(named)) if len(missing) > 3 else "all" + (f" but {', '.join(missing)}" if missing else "")
        )
        lines.append(f"| {_spoken(test)} | {sum(count.values())} | {said} |")
    lines += ["", "And for models of any kind, plain PyTorch among them:", "", "| test | cases |", "|---|---|"]
    lines += [f"| {_spoken(test)} | {sum(count.values())} |" for test, count in tests.items() if set(count) == {""}]
    return "\n".join(lines)


def _spoken(test: str) -> str:
    file, name = test.split("::")
    return f"[{name.removeprefix('test_').replace('_', ' ')}](../{file})"


def main() -> int:
    """Command line; see the module."""
    if "--check" not in sys.argv:
        rewrite(PAGE, "families", page())
    elif marked(PAGE, "families") != page():
        print("docs/families.md is not the page written now; run: .venv/bin/python scripts/families.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
