"""Hybrids of linear and softmax layers: how many softmax layers a model of four needs to recall, and to model text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gatescope.errors import Refusal

if TYPE_CHECKING:
    import xarray as xr

Kind = Literal["softmax", "gla", "scalar", "fixed", "delta"]
_LAYERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridRun:
    """What mixes positions in four layers, and what the model is trained on; the axes of the study.

    kind   of the layers that are not softmax: "gla", a decay a channel; "scalar", a decay a head; "fixed", a learned
           decay that does not read the token; "delta", the gated delta rule. "softmax": all are, the control
    full   softmax layers among the four, see `places`
    task   "recall": `MQAR` of 16 pairs, its answers scored alone; "bytes": the first nine tenths of `bytewise`'s text
    steps  of 32 sequences of 64 tokens: Adam at 5e-3, a warm-up of 30 %, then a fall to 0, as in lesson 05
    seed   initial weights and batches

    Raises Refusal for numbers outside their range, and for four softmax layers of another kind.
    """

    kind: Kind = "softmax"
    full: int = _LAYERS
    task: Literal["recall", "bytes"] = "recall"
    steps: int = 600
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.full <= _LAYERS or self.steps < 1:
            got = f"full={self.full}, steps={self.steps}"
            raise Refusal("HybridRun", f"0 to {_LAYERS} softmax layers, steps >= 1", got, "use 1 and 600")
        if (self.kind == "softmax") != (self.full == _LAYERS):
            got = f"kind={self.kind!r} with full={self.full}"
            raise Refusal("HybridRun", f"kind 'softmax' where all {_LAYERS} layers are", got, "name the other layers")

    @property
    def places(self) -> tuple[int, ...]:
        """Layers that are softmax: the middle one of each of ``full`` equal groups, the later of two.

        floor(4 (i + 1/2) / full): of four, one is layer 2; two are layers 1 and 3, counted from 0.
        """
        return tuple(_LAYERS * (2 * place + 1) // (2 * self.full) for place in range(self.full))


def measure(run: HybridRun) -> xr.Dataset:
    """Train and measure on what no run was trained on: ``accuracy`` of recall, or ``loss`` of held-out bytes.

    Raises NonFiniteError when training diverges.
    """
    import numpy as np

    from gatescope import bytewise, records
    from gatescope.recall import accuracy
    from gatescope.records import Quantity
    from gatescope.tasks.text import BYTE_VOCAB
    from gatescope.train import Training

    model = Training(model_config(run), task_of(run), train_spec(run)).run(progress=False).model.eval()
    if run.task == "recall":
        what = "share of questions whose likeliest next token is the answer, 256 sequences"
        quantity = Quantity("accuracy", (), "1", "recall accuracy", what, "tasks.mqar", "guessing a value: 1 of 64")
        task = task_of(run)
        value, baseline = accuracy(model, task), 1 / (task.vocab - task.first_value)
    else:
        what = "-log p(next byte), mean over 63 bytes"
        where = "Python's help topics (pydoc_data.topics), the last tenth"
        quantity = Quantity("loss", (), "nats", "held-out loss a byte", what, where, "uniform guessing: log(vocab)")
        value, baseline = bytewise.loss_at(model, bytewise.held_out(), 1), np.log(BYTE_VOCAB)
    return records.new({quantity.name: quantity.variable(value, baseline_value=baseline)})


def task_of(run: HybridRun) -> Any:
    """What the model is trained on."""
    from gatescope import bytewise
    from gatescope.tasks import MQAR

    return MQAR() if run.task == "recall" else bytewise.TASK


def train_spec(run: HybridRun) -> Any:
    """The `TrainSpec` of a run."""
    from gatescope.train import TrainSpec

    scored: Literal["marked", "all"] = "marked" if run.task == "recall" else "all"
    return TrainSpec(steps=run.steps, warmup=round(0.3 * run.steps), decay_share=0.7, seed=run.seed, scored=scored)


def model_config(run: HybridRun) -> Any:
    """The `LMConfig` of a run: lesson 05's blocks, D = 32, which only mix positions, four of them."""
    from dataclasses import replace

    from gatescope.layers import AttentionSpec, LinearAttentionSpec
    from gatescope.models import LMConfig
    from gatescope.recall import GLA, SOFTMAX
    from gatescope.tasks.text import BYTE_VOCAB

    kinds: dict[str, AttentionSpec | LinearAttentionSpec] = {
        "softmax": SOFTMAX,
        "gla": GLA,
        "scalar": replace(GLA, decay="head"),
        "fixed": replace(GLA, decay="fixed"),
        "delta": replace(GLA, decay="head", update="delta"),
    }
    mixers = tuple(SOFTMAX if layer in run.places else kinds[run.kind] for layer in range(_LAYERS))
    vocab = task_of(run).vocab if run.task == "recall" else BYTE_VOCAB
    return LMConfig(vocab, d_model=32, n_layers=_LAYERS, attention=mixers, mlp=None, init_std=0.1)


__all__ = ["HybridRun", "measure", "model_config", "task_of", "train_spec"]
