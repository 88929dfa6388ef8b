"""The command line of a lesson's make.py: trains what is missing, several runs at a time, and puts it into data/."""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from gatescope import data
from gatescope.paths import data_dir

R = TypeVar("R")


def make_missing(
    about: str,
    made_by: str,
    description: str,
    runs: Sequence[R],
    checkpoint: Callable[[R], str],
    make: Callable[[R], str],
) -> None:
    """Read the command line, train the runs whose checkpoint is not in data/, and register each as it is finished.

    about        the docstring of the module; its first line is the help
    made_by      the command that the manifest names
    description  of every checkpoint, for the manifest
    runs         all of them; with --again all are trained once more
    checkpoint   run -> its name in data/
    make         run -> the same name, once it is written; a function of a module, since it runs in other processes
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (default 2)")
    parser.add_argument("--again", action="store_true", help="train what is in data/ already once more")
    arguments = parser.parse_args()

    from tqdm.auto import tqdm

    os.environ["OMP_NUM_THREADS"] = "1"
    missing = [run for run in runs if arguments.again or not (data_dir() / checkpoint(run)).exists()]
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        for name in tqdm(pool.imap_unordered(make, missing), total=len(missing), unit="model"):
            data.register(data_dir() / name, licence="Apache-2.0", made_by=made_by, description=description)
