"""What a room registers to give the `gatescope` console script a subcommand."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One subcommand: the line that says what it does, its arguments, and the function that runs it.

    ``run`` returns the exit status: 0 when all is well.
    """

    help: str
    configure: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]
