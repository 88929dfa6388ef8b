"""Train every variant and seed of lesson 02 and put the checkpoints into data/:

    python -m gatescope_lessons.l02_one_gate_no_sink.make [--jobs 2] [--again]

Runs that are finished are left alone, a run that was stopped goes on where it was.
"""

from __future__ import annotations

from itertools import product

from gatescope.checkpoints import save_model
from gatescope.paths import cache_dir, data_dir

from gatescope_lessons.making import make_missing

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


def _checkpoint(run: tuple[str, int]) -> str:
    from gatescope_lessons.l02_one_gate_no_sink import lab

    return lab.checkpoint(*run)


def main() -> None:
    """Command line; see the module."""
    from gatescope_lessons.l02_one_gate_no_sink import lab

    about = "Two-layer model on bigram-binding, lesson 02; config and run in the file's metadata"
    make_missing(str(__doc__), MADE_BY, about, list(product(lab.VARIANTS, lab.SEEDS)), _checkpoint, make)


if __name__ == "__main__":
    main()
