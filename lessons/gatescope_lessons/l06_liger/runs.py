"""What lesson 06 converts and repairs: two small softmax models, read in five ways, and adapters that learn on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from gatescope import checkpoints, data
from gatescope.checkpoints import load_extra, load_model
from gatescope.errors import Refusal
from gatescope.layers import AttentionSpec, MLPSpec
from gatescope.models import LMConfig, TinyLM, next_token_nll
from gatescope.surgery import LoRASpec, merged, to_liger, with_lora
from gatescope.tasks import MQAR
from gatescope.tasks.text import BYTE_BOS, BYTE_VOCAB, TEXTS, Bytes
from gatescope.train import Training, TrainSpec
from jaxtyping import Int
from torch import Tensor

SEEDS = (0, 1, 2)
#: Steps between two points of a curve.
EVERY = 50
#: Steps that a model of bytes learns before it is converted.
BYTES_STEPS = 600
LORA = LoRASpec()

TASKS: dict[str, MQAR | Bytes] = {"recall": MQAR(pairs=8, length=32), "bytes": Bytes(length=64)}
#: Keys that the softmax half of a converted model sees: an eighth and a quarter of a sequence.
WINDOWS = {"recall": 4, "bytes": 16}
#: How adapters learn, the same for all variants of a task.
RECIPES: dict[str, TrainSpec] = {
    "recall": TrainSpec(steps=300, lr=1e-2, warmup=30, decay_share=0.7, scored="marked"),
    "bytes": TrainSpec(steps=150, lr=5e-3, warmup=15, decay_share=0.7),
}
BYTES_MODEL = LMConfig(BYTE_VOCAB, 64, 2, AttentionSpec(4, 2, 16), MLPSpec("gelu", 192))

#: Name -> how the trained weights are read; the window comes from the task.
VARIANTS: dict[str, dict[str, Any]] = {
    "liger": {},
    "recurrent": {"mix": 1.0},
    "window": {"mix": 0.0},
    "ungated": {"decay": "none"},
    "fixed": {"decay": "fixed"},
}


@dataclass(frozen=True, slots=True)
class Run:
    """One model converted and repaired: a task, a variant, the seed of its teacher, its adapters and their batches."""

    task: str
    variant: str
    seed: int

    def __post_init__(self) -> None:
        for known, name in ((TASKS, self.task), (VARIANTS, self.variant)):
            if name not in known:
                raise Refusal("Run", f"one of {tuple(known)}", repr(name), "choose one of them")

    @property
    def checkpoint(self) -> str:
        """The file of its adapters in data/."""
        return f"checkpoints/l06/{self.task}-{self.variant}-s{self.seed}.safetensors"


def teacher_file(task: str, seed: int) -> str:
    """The file of a trained softmax model in data/. Those that recall are lesson 05's."""
    if task == "recall":
        return f"checkpoints/l05/8_pairs-softmax-s{seed}.safetensors"
    return f"checkpoints/l06/bytes-softmax-s{seed}.safetensors"


def teacher(task: str, seed: int) -> TinyLM:
    """A trained softmax model from data/. Raises DataError when the file is missing or changed."""
    return load_model(data.path(teacher_file(task, seed))).eval()


def bytes_training(seed: int) -> Training:
    """The training of a model of bytes, not started."""
    return Training(BYTES_MODEL, TASKS["bytes"], TrainSpec(steps=BYTES_STEPS, seed=seed, decay_share=0.5))


def converted(model: TinyLM, task: str, variant: str, **changes: Any) -> TinyLM:
    """``model`` read as a variant; ``changes`` are further fields of LigerSpec."""
    return to_liger(model, **{"window": WINDOWS[task]} | VARIANTS[variant] | changes)


def repair(run: Run, model: TinyLM, **changes: Any) -> Training:
    """The training of adapters on a converted ``model``, not started. ``changes`` are fields of `TrainSpec`."""
    spec = replace(RECIPES[run.task], seed=100 + run.seed, **changes)  # not the batches that its teacher saw
    return Training(with_lora(model, LORA, seed=run.seed), TASKS[run.task], spec)


def repaired(run: Run, model: TinyLM | None = None) -> TinyLM:
    """The converted model with its adapters from data/ added to its maps. Raises DataError as `teacher` does."""
    found, _ = checkpoints.read_tensors(data.path(run.checkpoint))
    model = teacher(run.task, run.seed) if model is None else model
    return merged(converted(model, run.task, run.variant), found, LORA)


def curve(run: Run) -> tuple[list[int], list[float]]:
    """Steps and scores of a run as its adapters learnt."""
    extra = load_extra(data.path(run.checkpoint))
    return extra["steps"], extra["score"]


def held_out() -> Int[Tensor, "B T"]:
    """The story, the prose, the letter and the recipe of gatescope.tasks.text, in pieces of 63 bytes behind a BOS."""
    text = "\n".join(TEXTS[name].text for name in ("story", "prose", "letter", "recipe")).encode()
    pieces = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    pieces = pieces[: len(pieces) // 63 * 63].view(-1, 63)
    return torch.nn.functional.pad(pieces, (1, 0), value=BYTE_BOS)


@torch.no_grad()
def score(model: TinyLM, task: str, size: int = 256, seed: int = 20261106) -> float:
    """recall: share of ``size`` unseen sequences' questions answered. bytes: loss on `held_out`, nats a byte."""
    if task == "bytes":
        return float(next_token_nll(model, held_out()).mean())
    tokens, asked = TASKS["recall"].batch(seed, size)
    assert asked is not None
    right = model(tokens)[:, :-1].argmax(-1) == tokens[:, 1:]
    return float(right[asked[:, :-1]].double().mean())


__all__ = [
    "BYTES_MODEL",
    "EVERY",
    "LORA",
    "RECIPES",
    "SEEDS",
    "TASKS",
    "VARIANTS",
    "WINDOWS",
    "Run",
    "bytes_training",
    "converted",
    "curve",
    "held_out",
    "repair",
    "repaired",
    "score",
    "teacher",
    "teacher_file",
]
