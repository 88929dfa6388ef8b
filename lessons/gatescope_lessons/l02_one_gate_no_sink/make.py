"""Train every variant and seed of lesson 02 and put the checkpoints into data/:

    python -m gatescope_lessons.l02_one_gate_no_sink.make [--jobs 2] [--again]

Runs that are finished are left alone, a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from itertools import product

from gatescope import data
from gatescope.checkpoints import save_model
from gatescope.paths import cache_dir, data_dir

MADE_BY = "python -m gatescope_lessons.l02_one_gate_no_sink.make"


def make(run: tuple[str, int]) -> str:
    """Train one variant with one seed to the end and write its checkpoint; returns its name in data/."""
    import torch

    from gatescope_lessons.l02_one_gate_no_sink import lab

    torch.set_num_threads(1)
    variant, seed = run
    folder = cache_dir() / "training" / "l02" / f"{variant}-s{seed}"
    finished = lab.training(variant, seed, folder=folder).run(progress=False)
    name = lab.checkpoint(variant, seed)
    extra = {"variant": variant, "seed": seed, "steps": finished.step, "loss": finished.losses[-1]}
    save_model(data_dir() / name, finished.model, extra)
    return name


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (default 2)")
    parser.add_argument("--again", action="store_true", help="train what is in data/ already once more")
    arguments = parser.parse_args()

    from tqdm.auto import tqdm

    from gatescope_lessons.l02_one_gate_no_sink import lab

    os.environ["OMP_NUM_THREADS"] = "1"
    runs = [
        run
        for run in product(lab.VARIANTS, lab.SEEDS)
        if arguments.again or not (data_dir() / lab.checkpoint(*run)).exists()
    ]
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        for name in tqdm(pool.imap(make, runs), total=len(runs), unit="model"):
            data.register(
                data_dir() / name,
                licence="Apache-2.0",
                made_by=MADE_BY,
                description="Two-layer model on bigram-binding, lesson 02; config and run in the file's metadata",
            )


if __name__ == "__main__":
    main()
