"""Train the byte models of lesson 12 and put the checkpoints into data/:

    python -m gatescope_lessons.l12_spending_compute.make [--jobs 2] [--again]

Seeds that are finished are left alone.
"""

from __future__ import annotations

from gatescope.checkpoints import save_model
from gatescope.paths import data_dir

from gatescope_lessons.l12_spending_compute.lab import SEEDS
from gatescope_lessons.l12_spending_compute.learners import checkpoint, training
from gatescope_lessons.making import make_missing

MADE_BY = "python -m gatescope_lessons.l12_spending_compute.make"


def make(seed: int) -> str:
    """Train one model to the end and write its checkpoint; returns its name in data/."""
    import torch

    torch.set_num_threads(1)
    finished = training(seed).run(progress=False)
    extra = {"seed": seed, "steps": finished.step, "loss": finished.losses[-1]}
    save_model(data_dir() / checkpoint(seed), finished.model, extra)
    return checkpoint(seed)


def main() -> None:
    """Command line; see the module."""
    about = "Two-layer byte model on Python's help topics (PSF-2.0), lesson 12; config and run in the file's metadata"
    make_missing(str(__doc__), MADE_BY, about, SEEDS, checkpoint, make)


if __name__ == "__main__":
    main()
