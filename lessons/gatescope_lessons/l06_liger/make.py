"""Train the models of bytes and the adapters of lesson 06 and put them into data/:

    python -m gatescope_lessons.l06_liger.make [--jobs 2] [--again]

Runs that are finished are left alone. The models that recall are lesson 05's.
"""

from __future__ import annotations

from gatescope import data
from gatescope.checkpoints import save_model, write_tensors
from gatescope.paths import data_dir
from gatescope.surgery import adapters

from gatescope_lessons.l06_liger.runs import (
    EVERY,
    SEEDS,
    TASKS,
    VARIANTS,
    Run,
    bytes_training,
    converted,
    repair,
    score,
    teacher,
    teacher_file,
)
from gatescope_lessons.making import make_missing

MADE_BY = "python -m gatescope_lessons.l06_liger.make"


def make_teacher(seed: int) -> str:
    """Train one model of bytes; returns its name in data/."""
    import torch

    torch.set_num_threads(1)
    work = bytes_training(seed).run(progress=False)
    name = teacher_file("bytes", seed)
    save_model(data_dir() / name, work.model, {"seed": seed})
    return name


def make(run: Run) -> str:
    """Train the adapters of one run and write them with their curve; returns their name in data/."""
    import torch

    torch.set_num_threads(1)
    name = teacher_file(run.task, run.seed)
    model = converted(teacher(run.task, run.seed), run.task, run.variant)
    work = repair(run, model)
    steps, found = [0], [score(model, run.task, size=64)]
    for progress in work:
        if progress.step % EVERY == 0:
            steps.append(progress.step)
            found.append(score(work.model, run.task, size=64))
    about = {"task": run.task, "variant": run.variant, "seed": run.seed, "steps": steps, "score": found}
    about |= {"teacher": name, "teacher_sha256": data.rows()[name].sha256}
    write_tensors(data_dir() / run.checkpoint, adapters(work.model), {"extra": about})
    return run.checkpoint


def main() -> None:
    """Command line; see the module."""
    about = "Two-layer softmax model on bytes, lesson 06; config in the file's metadata"
    make_missing(str(__doc__), MADE_BY, about, SEEDS, lambda seed: teacher_file("bytes", seed), make_teacher)
    about = "Adapters of a converted model, lesson 06; run, teacher and curve in the file's metadata"
    runs = [Run(task, variant, seed) for task in TASKS for variant in VARIANTS for seed in SEEDS]
    make_missing(str(__doc__), MADE_BY, about, runs, lambda run: run.checkpoint, make)


if __name__ == "__main__":
    main()
