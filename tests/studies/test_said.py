"""What docs/studies.md quotes of a study is what its kept record says today."""

from __future__ import annotations

import re

import pytest
from gatescope.studies.keeping import kept, kept_grid, kept_table
from gatescope.studies.showing import shown_along

#: Study -> the axis along which its exponents are quoted.
ALONG = {"experts": "k", "gaussian-rates": "samples"}


@pytest.mark.parametrize(("name", "axis"), ALONG.items())
def test_quoted_exponents_are_those_of_the_kept_record(name, axis, root):
    text = (root / "docs" / "studies.md").read_text(encoding="utf-8")
    section = text.split(f"### {name}\n")[1].split("\n## ")[0].split("\n### ")[0]
    (quoted,) = re.findall(r"```text\n(.*?)```", section, flags=re.DOTALL)
    record = kept(name)
    told = shown_along(kept_grid(name, record), kept_table(record), axis)
    lines = [line for line in quoted.splitlines() if line]
    assert lines
    assert [line for line in lines if line not in told] == []
