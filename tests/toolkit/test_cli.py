"""The console script: lists without importing, refuses in one line, passes exit codes on."""

from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentParser, Namespace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from gatescope import cli
from gatescope_kernels import Refusal
from gatescope_kernels.command import Command

PACKAGE = "plugged_room"
MODULES = {
    "__init__": "raise RuntimeError('the list of subcommands must not import me')\n",
    "good": "COMMAND = Command('does a good thing', configure, run)\n",
    "named": "COMMAND = Command(help='named help', configure=configure, run=run)\n",
    "unparsable": "COMMAND = (\n",
    "empty": "\n",
}


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / PACKAGE).mkdir()
    for name, text in MODULES.items():
        (tmp_path / PACKAGE / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)


class Plug(EntryPoint):
    """An entry point that loads what it is given."""

    def load(self) -> object:
        """What the test registered under this name."""
        return LOADS[self.name]() if self.name in LOADS else super().load()


LOADS: dict[str, object] = {}


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Subcommands by name; the value is called to load them."""
    LOADS.clear()
    monkeypatch.setattr(cli, "entry_points", lambda group: [Plug(name, f"{PACKAGE}:C", group) for name in LOADS])
    return LOADS


def command(run: object, configure: object = lambda parser: None) -> Command:
    return Command("helps", configure, run)  # type: ignore[arg-type]


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize(
    ("value", "help_line"),
    [
        (f"{PACKAGE}.good:COMMAND", "does a good thing"),
        (f"{PACKAGE}.named:COMMAND", "named help"),
        (f"{PACKAGE}.empty:COMMAND", "(broken: plugged_room.empty defines no COMMAND)"),
        (f"{PACKAGE}.unparsable:COMMAND", "(broken: unparsable.py line 1 is not Python)"),
        (f"{PACKAGE}.absent:COMMAND", "(broken: there is no module plugged_room.absent)"),
        ("no_such_package.x:COMMAND", "(broken: there is no module no_such_package.x)"),
    ],
)
def test_help_is_read_from_the_source(value: str, help_line: str) -> None:
    assert cli.one_line_help(EntryPoint("name", value, cli.GROUP)) == help_line
    assert PACKAGE not in sys.modules


def test_the_installed_subcommands_all_have_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    listed = capsys.readouterr().out
    assert "broken" not in listed
    for name in ("bench", "build", "claims", "doctor", "run"):
        assert f"\n  {name} " in listed


def test_arguments_and_exit_codes_pass_through(plugged: dict[str, object]) -> None:
    seen: list[Namespace] = []

    def configure(parser: ArgumentParser) -> None:
        parser.add_argument("--profile")
        parser.add_argument("names", nargs="*")

    def run(arguments: Namespace) -> int:
        seen.append(arguments)
        return 7

    plugged["go"] = lambda: command(run, configure)
    assert cli.main(["go", "--profile", "quick", "l01"]) == 7
    assert (seen[0].profile, seen[0].names) == ("quick", ["l01"])


def test_an_unknown_subcommand_is_refused_with_the_known_ones(
    plugged: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    plugged["go"] = lambda: command(lambda _: 0)
    assert cli.main(["gone"]) == 2
    assert capsys.readouterr().err == "gatescope: wanted a subcommand, got 'gone'; there are: go\n"


def test_without_an_install_the_fix_is_named(plugged: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run"]) == 2
    assert "make setup" in capsys.readouterr().err


def _refuse(_: Namespace) -> int:
    raise Refusal("run", "a lesson", "'l99'", "choose l01")


@pytest.mark.parametrize("debug", [False, True])
def test_a_refusal_is_one_line_unless_debugged(
    plugged: dict[str, object], capsys: pytest.CaptureFixture[str], debug: bool
) -> None:
    plugged["go"] = lambda: command(_refuse)
    assert cli.main(["--debug", "go"] if debug else ["go"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "run: wanted a lesson, got 'l99'; choose l01"
    assert (len(said) > 1) is debug


def _broken_import() -> Command:
    raise ImportError("No module named 'gone'")


@pytest.mark.parametrize(
    ("load", "said"),
    [(_broken_import, "ImportError: No module named 'gone'"), (lambda: "text", "wanted a Command"), (None, PACKAGE)],
)
@pytest.mark.usefixtures("room")
def test_a_broken_entry_point_is_refused(
    plugged: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    load: object,
    said: str,
) -> None:
    if load is None:
        point = EntryPoint("go", "plugged_room_that_is_not_there:C", cli.GROUP)
        monkeypatch.setattr(cli, "entry_points", lambda group: [point])
    else:
        plugged["go"] = load
    assert cli.main(["go"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_bug_keeps_its_traceback(plugged: dict[str, object]) -> None:
    plugged["go"] = lambda: command(lambda _: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["go"])


def _interrupt(_: Namespace) -> int:
    raise KeyboardInterrupt


def test_ctrl_c_leaves_with_130(plugged: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    plugged["go"] = lambda: command(_interrupt)
    assert cli.main(["go"]) == 130
    assert capsys.readouterr().err == "\nStopped.\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("gatescope 0.")


def test_a_reader_who_has_had_enough_is_no_error() -> None:
    code = "import sys; from gatescope.cli import main; sys.exit(main(['study', 'list']))"
    command = f'{sys.executable} -c "{code}" | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode in {0, cli.READER_LEFT}
    assert done.stderr == ""
