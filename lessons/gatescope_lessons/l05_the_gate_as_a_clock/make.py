"""Train every run of lesson 05 and put the checkpoints into data/:

    python -m gatescope_lessons.l05_the_gate_as_a_clock.make [--jobs 2] [--again]

Runs that are finished are left alone.
"""

from __future__ import annotations

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
from gatescope_lessons.making import make_missing

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
    about = "Two-layer model on MQAR, lesson 05; config, run and learning curve in the file's metadata"
    runs = [Run(variant, task, seed) for task, names in TRAINED.items() for variant in names for seed in SEEDS]
    make_missing(str(__doc__), MADE_BY, about, runs, lambda run: run.checkpoint, make)


if __name__ == "__main__":
    main()
