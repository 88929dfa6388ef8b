"""Set up and open the lab: ``python scripts/bootstrap.py {setup,lab,wheelhouse,clean}``. Standard library only.

The Makefile calls this file and holds no logic of its own. This module gates on the version of Python, so it keeps to
syntax that an old Python can still read; the work is in the modules beside it.
"""

import argparse
import os
import sys

OLDEST, NEWEST = (3, 11), (3, 14)


def refuse_python(version, executable):
    """The message for a Python that the pins have no wheels for, or None when ``version`` will do."""
    if OLDEST <= tuple(version[:2]) <= NEWEST:
        return None
    return (
        "gatescope set-up: wanted Python {}.{} to {}.{}, got {}.{} ({}); "
        "install one of them, then name it: make lab PYTHON=/path/to/python3.12"
    ).format(*OLDEST, *NEWEST, *version[:2], executable)


def main(argv=None):
    """Run one command; returns the exit code."""
    refusal = refuse_python(sys.version_info, sys.executable)
    if refusal:
        print(refusal, file=sys.stderr)
        return 2

    import pathlib

    import lab_launch
    import setup_steps
    import wheelhouse

    parser = argparse.ArgumentParser(prog="bootstrap", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    setup = commands.add_parser("setup", help="make .venv, install the pins, convert SmolLM2 once")
    setup.add_argument("--dev", action="store_true", help="also what the tests need")
    commands.add_parser("lab", help="set up, copy the notebooks into work/, open JupyterLab there (it gets the rest)")
    wheels = commands.add_parser("wheelhouse", help="every wheel of the lab in one folder, to set up without network")
    wheels.add_argument("out", type=pathlib.Path, help="the folder, made when it is missing")
    wheels.add_argument("--dev", action="store_true", help="also what the tests need")
    commands.add_parser("clean", help="remove what a run leaves behind; keeps .venv, .cache and work")
    # JupyterLab's own options must reach it in their order, so argparse never sees them.
    argv = list(sys.argv[1:] if argv is None else argv)
    lab_args = argv[1:] if argv[:1] == ["lab"] else []
    known = parser.parse_args(argv[:1] if lab_args else argv)

    place = setup_steps.Place.here()
    try:
        if known.command == "setup":
            setup_steps.set_up(place, dev=known.dev)
        elif known.command == "lab":
            setup_steps.set_up(place, dev=False)
            lab_launch.launch(place, lab_args)
        elif known.command == "wheelhouse":
            wheelhouse.fill(place, known.out, dev=known.dev)
        else:
            setup_steps.clean(place)
    except setup_steps.SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again: it goes on where this one stopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    os.environ.setdefault("PYTHONUTF8", "1")
    sys.exit(main())
