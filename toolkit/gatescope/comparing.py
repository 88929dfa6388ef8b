"""`gatescope compare`: two records side by side, as a table and, where asked for, as a page that opens offline.

gatescope compare runs/before/record.nc runs/after/record.nc --out runs/compared.html
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from gatescope_kernels.command import Command

if TYPE_CHECKING:
    from gatescope.records import Pair

_ROWS = 20


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument("a", metavar="A.nc", type=Path, help="a record")
    parser.add_argument("b", metavar="B.nc", type=Path, help="the record to compare it with")
    parser.add_argument("--out", metavar="FILE.html", type=Path, help="write a page with figures as well")
    parser.add_argument("--variables", metavar="NAME", nargs="+", help="compare these alone (default: all in common)")


def _run(arguments: Namespace) -> int:
    from gatescope import records
    from gatescope.errors import Refusal
    from gatescope.paths import atomic_write

    files = (arguments.a, arguments.b)
    if files[0].resolve() == files[1].resolve():
        raise Refusal("compare", "two records", f"{files[0]} twice", "name another file")
    first, second = (records.load(file) for file in files)
    pair = records.pair(first, second, _names(*files), arguments.variables)
    for line in _told(pair):
        print(line)
    if arguments.out is not None:
        from gatescope.report import compare_page

        html = compare_page(pair)
        with atomic_write(arguments.out) as temporary:
            temporary.write_text(html, encoding="utf-8")
        print(arguments.out)
    return 0


def _names(a: Path, b: Path) -> tuple[str, str]:
    """The shortest ends of two paths that tell them apart: records are often all called record.nc."""
    one, other = a.resolve().with_suffix("").parts, b.resolve().with_suffix("").parts
    n = next(n for n in range(1, max(len(one), len(other)) + 1) if one[-n:] != other[-n:])
    short = [
        "/".join(parts[-n:-1] or parts[-n:]) if parts[-1:] == ("record",) else "/".join(parts[-n:])
        for parts in (one, other)
    ]
    return (short[0], short[1]) if short[0] != short[1] else ("/".join(one), "/".join(other))


def _told(pair: Pair) -> list[str]:
    from gatescope import records

    frame = records.differences(pair)
    first, second = pair.labels
    lines = [f"A = {first}, B = {second}; the largest effect first"]
    shown = frame.head(_ROWS)[["variable", "unit", "mean_a", "mean_b", "difference", "effect", "largest", "where"]]
    lines += shown.to_string(index=False, float_format=lambda value: f"{value:.4g}").splitlines()
    if len(frame) > _ROWS:
        lines.append(f"... and {len(frame) - _ROWS} more; --out shows them all")
    moved = records.renamings(pair)
    lines += [
        f"{row.variable}: other names at {100 * row.share:.0f} % of {row.places} places" for row in moved.itertuples()
    ]
    return [*lines, *pair.unmatched, *(f"Note: {note}" for note in pair.notes)]


COMMAND = Command("compare two records variable by variable, with a page of figures", _configure, _run)
