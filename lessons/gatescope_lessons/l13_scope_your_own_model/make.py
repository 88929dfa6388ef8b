"""Train the mixture of experts of lesson 13 and put its checkpoints into data/:

python -m gatescope_lessons.l13_scope_your_own_model.make
"""

from __future__ import annotations

import torch
from gatescope import data
from gatescope.checkpoints import save_model
from gatescope.paths import data_dir

from gatescope_lessons.l13_scope_your_own_model import lab
from gatescope_lessons.l13_scope_your_own_model.training import Loop

MADE_BY = "python -m gatescope_lessons.l13_scope_your_own_model.make"


def main() -> None:
    """Train seed 0 from step to step of SHIPPED, about a minute."""
    torch.set_num_threads(1)
    loop = Loop(lab.BYTES)
    for step in lab.SHIPPED:
        loop.train(until=step)
        name = lab.checkpoint(step)
        save_model(data_dir() / name, loop.model, {"seed": loop.seed, "step": step})
        data.register(
            data_dir() / name,
            licence="Apache-2.0",
            made_by=MADE_BY,
            description=f"Mixture of experts on bytes, lesson 13, after {step} of {lab.STEPS} steps",
        )


if __name__ == "__main__":
    main()
