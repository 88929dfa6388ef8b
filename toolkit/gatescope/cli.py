"""The console script ``gatescope``: one line a subcommand, and nothing heavy imported before one is chosen.

Every room registers its subcommands in the entry-point group ``gatescope.commands``; each names a
`gatescope_kernels.command.Command`. The list of subcommands is read from their sources, not by importing them.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatescope_kernels.command import Command

#: An importlib.metadata.EntryPoint, or one of the backport of that name: once imported, it answers for both.
EntryPoint = Any
GROUP = "gatescope.commands"
USAGE_ERROR, INTERRUPTED, READER_LEFT = 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code: its own, 2 when something was refused, 130 after Ctrl-C,
    141 when whoever reads our lines has left.

    A refusal is one line on stderr; ``--debug`` before the subcommand shows the traceback as well.
    """
    commands = {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}
    words = list(sys.argv[1:] if argv is None else argv)
    # Options before the subcommand are ours, everything after it is the subcommand's.
    here = next((index for index, word in enumerate(words) if not word.startswith("-")), len(words))
    front = _front(commands)
    options = front.parse_args(words[:here])
    if options.version:
        return _print_version()
    if here == len(words):
        front.print_help()
        return 0
    name, rest = words[here], words[here + 1 :]
    if name not in commands:
        known = ", ".join(commands) or "none, because the project is not installed (in a clone: `make setup`)"
        return _refuse(f"gatescope: wanted a subcommand, got {name!r}; there are: {known}")
    try:
        command = _load(commands[name])
        parser = argparse.ArgumentParser(prog=f"gatescope {name}", description=command.help)
        command.configure(parser)
        code = command.run(parser.parse_args(rest))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our lines, such as `head`, has had enough. What Python still holds goes nowhere, without a word.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_LEFT
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if not (isinstance(error, _BrokenCommandError) or _is_refusal(error)):
            raise
        if options.debug:
            traceback.print_exc()
        return _refuse(str(error))


class _BrokenCommandError(Exception):
    """An entry point that cannot be loaded, or that loads something else than a Command."""


def _front(commands: dict[str, EntryPoint]) -> argparse.ArgumentParser:
    width = max(map(len, commands), default=0)
    lines = [f"  {name:<{width}}  {one_line_help(point)}" for name, point in commands.items()]
    parser = argparse.ArgumentParser(
        prog="gatescope",
        description="See what gates do.",
        usage="gatescope [--debug] SUBCOMMAND ...",
        epilog="subcommands (gatescope SUBCOMMAND --help for its options):\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a refusal")
    return parser


def one_line_help(point: EntryPoint) -> str:
    """The help of the Command that ``point`` names, read from its source without importing it."""
    source = _source_of(point.module)
    if source is None:
        return f"(broken: there is no module {point.module})"
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"))
    except SyntaxError as error:
        return f"(broken: {source.name} line {error.lineno} is not Python)"
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == point.attr for t in node.targets):
            return _first_text(node.value) or "(no help)"
    return f"(broken: {point.module} defines no {point.attr})"


def _source_of(module: str) -> Path | None:
    # find_spec of a submodule would import its parent package, which may be heavy; that of a top-level one does not.
    package, *inner = module.split(".")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    stem = Path(spec.submodule_search_locations[0]).joinpath(*inner)
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def _first_text(call: ast.expr) -> str | None:
    if not isinstance(call, ast.Call):
        return None
    candidates = [keyword.value for keyword in call.keywords if keyword.arg == "help"] + call.args[:1]
    return next(
        (node.value for node in candidates if isinstance(node, ast.Constant) and isinstance(node.value, str)), None
    )


def _load(point: EntryPoint) -> Command:
    try:
        command = point.load()
    except (ImportError, AttributeError, SyntaxError) as error:
        raise _BrokenCommandError(
            f"gatescope {point.name}: wanted {point.value}, got {type(error).__name__}: {error}; "
            "install what is missing (in a clone `make setup`, with the tools of its tests `make setup-dev`); "
            "`gatescope --debug` shows where it broke"
        ) from error
    from gatescope_kernels.command import Command

    if not isinstance(command, Command):
        raise _BrokenCommandError(
            f"gatescope {point.name}: wanted a Command at {point.value}, got {type(command).__name__}; "
            "define COMMAND = Command(help, configure, run) there"
        )
    return command


def _is_refusal(error: Exception) -> bool:
    # Whoever raised a Refusal has imported its module; importing it here would slow every start.
    errors = sys.modules.get("gatescope_kernels.errors")
    return errors is not None and isinstance(error, errors.Refusal)


def _refuse(message: str) -> int:
    print(message, file=sys.stderr)
    return USAGE_ERROR


def _print_version() -> int:
    from gatescope import __version__

    print(f"gatescope {__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
