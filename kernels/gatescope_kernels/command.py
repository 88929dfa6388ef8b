"""What a room registers to give the `gatescope` console script a subcommand."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatescope_kernels.errors import Refusal


@dataclass(frozen=True)
class Command:
    """One subcommand: the line that says what it does, its arguments, and the function that runs it.

    ``run`` returns the exit status: 0 when all is well.
    """

    help: str
    configure: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]


def check_json(operator: str, file: Path | None) -> None:
    """Before the work begins: raises Refusal for a ``--json`` whose folder is not there."""
    if file is not None and not file.parent.is_dir():
        raise Refusal(operator, "--json in a folder that exists", str(file), f"create {file.parent}")


def write_json(file: Path, rows: Any) -> None:
    """Write ``rows`` whole or not at all."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    partial.replace(file)
