"""Train every run of lesson 05 and put the checkpoints into data/:

    python -m gatescope_lessons.l05_the_gate_as_a_clock.make [--jobs 2] [--again]

Runs that are finished are left alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os

from gatescope import data
from gatescope.checkpoints import save_model
from gatescope.paths import data_dir

from gatescope_lessons.l05_the_gate_as_a_clock.runs import (
    EVERY,
    SEEDS,
    STEPS,
    TASKS,
    TRAINED,
    Run,
    accuracy,
    training,
)

MADE_BY = "python -m gatescope_lessons.l05_the_gate_as_a_clock.make"


def make(run: Run) -> str:
    """Train one run to the end and write its checkpoint, its learning curve in it; returns its name in data/."""
    import torch

    torch.set_num_threads(1)
    work = training(run)
    steps, found = [], []
    for progress in work:
        if progress.step % EVERY == 0 or progress.step == STEPS:
            steps.append(progress.step)
            found.append(accuracy(work.model, TASKS[run.task], size=64))
    extra = {"variant": run.variant, "task": run.task, "seed": run.seed, "steps": steps, "accuracy": found}
    save_model(data_dir() / run.checkpoint, work.model, extra)
    return run.checkpoint


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (default 2)")
    parser.add_argument("--again", action="store_true", help="train what is in data/ already once more")
    arguments = parser.parse_args()

    from tqdm.auto import tqdm

    os.environ["OMP_NUM_THREADS"] = "1"
    wanted = [Run(variant, task, seed) for task, names in TRAINED.items() for variant in names for seed in SEEDS]
    runs = [run for run in wanted if arguments.again or not (data_dir() / run.checkpoint).exists()]
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        for name in tqdm(pool.imap_unordered(make, runs), total=len(runs), unit="model"):
            data.register(
                data_dir() / name,
                licence="Apache-2.0",
                made_by=MADE_BY,
                description="Two-layer model on MQAR, lesson 05; config, run and learning curve in the file's metadata",
            )


if __name__ == "__main__":
    main()
