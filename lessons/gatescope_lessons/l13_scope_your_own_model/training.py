"""A training loop as anybody writes one, around the Recorder; it can be killed at any moment and gone on with.

python -m gatescope_lessons.l13_scope_your_own_model.training FOLDER 37     # is killed in the middle of step 37
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gatescope import checkpoints
from gatescope.layers import AttentionSpec, Balancer, BiasUpdate, MoESpec
from gatescope.models import LMConfig, TinyLM, next_token_nll
from gatescope.probes import Routing
from gatescope.recorder import Recorder
from gatescope.taps import attached
from gatescope.tasks import BigramBinding
from gatescope.tasks.text import BYTE_VOCAB, Bytes
from gatescope.train import Task, TrainSpec
from torch import Tensor

_CHECKPOINT = "loop.safetensors"
#: What keeps the load of the experts even: a bias that only their selection sees (Wang et al. 2024).
_BALANCE = BiasUpdate(rate=1e-2)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is trained, on what, and how."""

    config: LMConfig
    task: Task
    spec: TrainSpec


def _mixture(vocab: int, d_model: int, n_layers: int, n_heads: int, experts: MoESpec) -> LMConfig:
    attention = AttentionSpec(n_heads, n_heads // 2, d_model // n_heads)
    return LMConfig(vocab, d_model, n_layers, attention, experts)


#: "bytes" is the lesson's mixture of experts; "binding" is so small that it trains while one waits.
RUNS = {
    "bytes": Run(
        config=_mixture(BYTE_VOCAB, 48, 4, 4, MoESpec(experts=8, k=2, hidden=32, balancing="bias")),
        task=Bytes(),
        spec=TrainSpec(steps=400, batch=16, lr=3e-3, warmup=30, decay_share=0.3),
    ),
    "binding": Run(
        config=_mixture(BigramBinding().vocab, 32, 2, 2, MoESpec(experts=4, k=2, hidden=24, balancing="bias")),
        task=BigramBinding(),
        spec=TrainSpec(steps=60, batch=8, lr=5e-3, warmup=10),
    ),
}


class Loop:
    """One training run: a model, an optimiser, a batch a step, and a file that both can be read from again.

    folder   where the checkpoint lies; one found there is gone on with. None keeps nothing

    The batch of a step depends on (seed, step) alone, so a run that was interrupted ends with the bits of one that was
    not, on one thread.
    """

    def __init__(self, run: Run, seed: int = 0, folder: Path | None = None) -> None:
        self.run, self.seed, self.folder, self.step = run, seed, folder, 0
        self.model = TinyLM(run.config, init_seed=seed)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=run.spec.lr, betas=(0.9, 0.99), fused=True)
        if folder is not None and (folder / _CHECKPOINT).exists():
            self._resume(folder / _CHECKPOINT)

    def train(
        self,
        recorder: Recorder | None = None,
        until: int | None = None,
        *,
        save_every: int = 20,
        before_update: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Train up to step ``until``, by default to the end."""
        spec, balancer = self.run.spec, Balancer(self.model, _BALANCE)
        for step in range(self.step + 1, (until or spec.steps) + 1):
            tokens, _ = self.run.task.batch((self.seed, step), spec.batch)
            self.optimizer.zero_grad()
            with attached(self.model, balancer):
                loss = next_token_nll(self.model, tokens).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), spec.clip)
            before_update(step)
            self.optimizer.param_groups[0]["lr"] = spec.lr_at(step - 1)
            self.optimizer.step()
            balancer.step()
            self.step = step
            if recorder is not None:
                recorder.step(step)
            if self.folder is not None and step % save_every == 0:
                self.save()

    def save(self) -> None:
        """Model and optimiser in one file, whole or not at all."""
        moments = self.optimizer.state_dict()["state"]
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"{name}.{at}": value for at, state in moments.items() for name, value in state.items()}
        assert self.folder is not None
        checkpoints.write_tensors(self.folder / _CHECKPOINT, tensors, {"step": self.step})

    def _resume(self, path: Path) -> None:
        tensors, metadata = checkpoints.read_tensors(path)
        own = {name.removeprefix("model."): x for name, x in tensors.items() if name.startswith("model.")}
        checkpoints.load_weights(self.model, own, path)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, _, at = name.partition(".")
            if kind != "model":
                moments.setdefault(int(at), {})[kind] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        self.step = metadata["step"]


def binding_recorder(loop: Loop, folder: Path, every: int = 10) -> Recorder:
    """A Recorder of the small run on sequences that it never trains on."""
    tokens, _ = loop.run.task.batch(20_241_201, 16)
    return Recorder(loop.model, [Routing()], folder, every=every, tokens=tokens)


def _kill(at: int) -> Callable[[int], None]:
    def strike(step: int) -> None:
        if step == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return strike


def main(arguments: Sequence[str] | None = None) -> Any:
    """Train the small run in a folder and be killed, by SIGKILL, before the update of a step."""
    folder, at = sys.argv[1:] if arguments is None else arguments
    torch.set_num_threads(1)
    loop = Loop(RUNS["binding"], folder=Path(folder))
    loop.train(binding_recorder(loop, Path(folder)), before_update=_kill(int(at)))


if __name__ == "__main__":
    main()
