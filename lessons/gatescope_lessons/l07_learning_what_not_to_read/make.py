"""Train the gates of lesson 07 and put them into data/:

    python -m gatescope_lessons.l07_learning_what_not_to_read.make [--jobs 2] [--again]

Gates that are there are left alone.
"""

from __future__ import annotations

from gatescope_lessons.l07_learning_what_not_to_read import training
from gatescope_lessons.making import make_missing

MADE_BY = "python -m gatescope_lessons.l07_learning_what_not_to_read.make"


def make(run: tuple[str, int]) -> str:
    """Train the gates of a kind and seed to the end and write them; returns their name in data/."""
    import torch
    from gatescope.models.smollm2 import load_smollm2

    torch.set_num_threads(1)
    kind, seed = run
    pretrained = load_smollm2()
    if kind == "blocks":
        blocks = training.block_gates(pretrained.config, seed)
        return training.save(kind, seed, blocks, list(training.distil(pretrained, blocks, seed)))
    flags = training.flag_gates(pretrained.config, seed)
    return training.save(kind, seed, flags, list(training.tune(pretrained, flags, seed)))


def main() -> None:
    """Command line; see the module."""
    about = "Gates on a frozen SmolLM2-135M, lesson 07; kind, seed and losses in the file's metadata"
    runs = [(kind, seed) for kind in training.KINDS for seed in training.SEEDS]
    make_missing(str(__doc__), MADE_BY, about, runs, lambda run: training.checkpoint(*run), make)


if __name__ == "__main__":
    main()
