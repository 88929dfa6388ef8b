"""`gatescope scan`: a model reads a text under the probes; a record and a report that opens offline come out.

    gatescope scan smollm2 --prompt "The cat sat on the mat." --out runs/cat

DIR/record.nc holds every number (`records.load`), DIR/report.html shows them.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from gatescope_kernels.command import Command


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="a folder with safetensors, a .gguf file, smollm2, or a hub id owner/model"
    )
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--text", metavar="FILE", type=Path, help="read this file (UTF-8)")
    text.add_argument("--prompt", metavar="STR", help="read this text")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for record.nc and report.html")
    parser.add_argument("--length", metavar="N", type=int, help="tokens to read (default: at most 2,048)")
    parser.add_argument(
        "--probes", metavar="NAME", nargs="+", help="only these probes (default: all but lens and outliers)"
    )


def _run(arguments: Namespace) -> int:
    from gatescope.errors import Refusal

    text = arguments.prompt
    if text is None:
        try:
            text = arguments.text.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise Refusal("scan", "a text file in UTF-8", reason, "check --text") from error

    from gatescope import records
    from gatescope.paths import atomic_write
    from gatescope.report import scan_page
    from gatescope.scan.loading import open_model
    from gatescope.scan.measuring import beyond_context, choose_probes, measure, tokenise

    opened = open_model(arguments.model)
    tokens, whole = tokenise(opened, text, arguments.length)
    for note in (beyond_context(opened, tokens.shape[1]), _cut(tokens.shape[1], whole, arguments.length)):
        if note:
            print(f"Note: {note}.", file=sys.stderr)
    record = measure(opened, tokens, choose_probes(opened, arguments.probes))
    written = records.save(record, arguments.out / "record.nc")
    page = arguments.out / "report.html"
    with atomic_write(page) as temporary:
        temporary.write_text(scan_page(record), encoding="utf-8")
    print(f"{written}\n{page}")
    return 0


def _cut(T: int, whole: int, length: int | None) -> str | None:
    if length is not None or whole == T:
        return None
    return f"read the first {T:,} of {whole:,} tokens; --length reads more"


COMMAND = Command("measure a model on a text: a labelled record and a report that opens offline", _configure, _run)
