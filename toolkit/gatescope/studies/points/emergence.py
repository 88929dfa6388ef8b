"""In search of massive activations: a small model changed in width, depth, data, optimiser and length of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gatescope.errors import Refusal

if TYPE_CHECKING:
    import xarray as xr

#: Tokens of a sequence, BOS included, and sequences a step.
_LENGTH, _BATCH = 48, 16
#: Looks along the training, beside the one before it.
_LOOKS = 8
#: Learning rates; that of SGD is the one of four tried at which the loss fell furthest, with a seed outside the study.
RATES = {"adam": 5e-3, "sgd": 0.3}


@dataclass(frozen=True, slots=True, kw_only=True)
class EmergenceRun:
    """A model and its training; the axes of the study.

    d_model    channels of the residual stream, all in one head
    n_layers   blocks of attention with RoPE and SwiGLU
    task       "bigram": bigrams with binding; "bytes": the first nine tenths of Python's help topics
    optimizer  "adam", or "sgd" with momentum, each at its rate of `RATES`
    steps      of 16 sequences of 48 tokens behind a BOS; the rate stays up to the end, nothing decays the weights
    seed       initial weights and batches

    Raises Refusal for sizes that make no model.
    """

    d_model: int = 32
    n_layers: int = 4
    task: Literal["bigram", "bytes"] = "bigram"
    optimizer: Literal["adam", "sgd"] = "adam"
    steps: int = 288
    seed: int = 0

    def __post_init__(self) -> None:
        if self.d_model < 2 or self.d_model % 2 or self.n_layers < 1 or self.steps < 1:
            got = f"d_model={self.d_model}, n_layers={self.n_layers}, steps={self.steps}"
            raise Refusal("EmergenceRun", "an even d_model, a layer and a step or more", got, "use 32, 4 and 288")


def measure(run: EmergenceRun) -> xr.Dataset:
    """Train and measure on 64 held-out sequences: what Massive and Sinks see, and ``loss``; names that end in ``_peak``
    are the largest of the same over training, at its start and eight times along it, on 16 sequences.

    Raises NonFiniteError when training diverges.
    """
    import numpy as np
    import torch

    from gatescope import records
    from gatescope.binding import FIRST_QUERY
    from gatescope.models import next_token_nll
    from gatescope.probes import Massive, Sinks
    from gatescope.records import Quantity
    from gatescope.scope import Scope
    from gatescope.train import Training

    task, held_out, vocab = tasks_of(run)
    training = Training(model_config(run), task, train_spec(run), probes=[Massive(ranks=1)]).run(progress=False)
    model = training.model.eval()
    tokens, _ = held_out.batch(20251106, 64)
    with torch.no_grad(), Scope(model, probes=[Massive(ranks=1), Sinks(first_query=FIRST_QUERY)]) as scope:
        loss = float(next_token_nll(model, tokens).double().mean())
    seen = scope.record(created=False)
    said = Quantity(
        "loss", (), "nats", "held-out loss", "-log p(next token), mean", "tasks", "uniform guessing: log(vocab)"
    )
    found = {"loss": said.variable(loss, baseline_value=np.log(vocab))}
    found |= {
        f"{name}_peak": _peak(training.record, name) for name in ("massive_ratio", "magnitude_max", "massive_count")
    }
    about = {name: value for name, value in seen.attrs.items() if name not in ("commit", "dirty", "seed")}
    return records.merge([seen, records.new(found)], **about)


def tasks_of(run: EmergenceRun) -> Any:
    """What the model is trained on, what it is measured on, and the vocabulary of both."""
    from gatescope.tasks import BigramBinding
    from gatescope.tasks.text import BYTE_VOCAB, Bytes

    if run.task == "bytes":
        return Bytes(length=_LENGTH, part="train"), Bytes(length=_LENGTH, part="held_out"), BYTE_VOCAB
    task = BigramBinding(length=_LENGTH)
    return task, task, task.vocab


def train_spec(run: EmergenceRun) -> Any:
    """The `TrainSpec` of a run: lesson 03's, with the optimiser's own rate."""
    from gatescope.train import TrainSpec

    return TrainSpec(
        steps=run.steps,
        batch=_BATCH,
        lr=RATES[run.optimizer],
        optimizer=run.optimizer,
        betas=(0.9, 0.99),
        warmup=run.steps // 8,
        decay_share=0.0,
        seed=run.seed,
        record_every=max(run.steps // _LOOKS, 1),
        record_batch=_BATCH,
    )


def model_config(run: EmergenceRun) -> Any:
    """The `LMConfig` of a run: one head, SwiGLU of 8/3 the width, as lesson 03's base."""
    from gatescope.models import AttentionSpec, LMConfig, MLPSpec

    attention = AttentionSpec(n_heads=1, n_kv_heads=1, head_dim=run.d_model)
    mlp = MLPSpec("swiglu", hidden=8 * run.d_model // 3)
    return LMConfig(tasks_of(run)[2], run.d_model, run.n_layers, attention, mlp)


def _peak(record: xr.Dataset, name: str) -> xr.DataArray:
    """The largest of a variable over training, layer by layer."""
    from gatescope.probes import Massive
    from gatescope.records import Quantity

    own = next(quantity for quantity in Massive.quantities if quantity.name == name)
    largest = Quantity(
        f"{name}_peak",
        own.dims,
        own.units,
        f"{own.long_name}, largest over training",
        f"max over looks of {own.formula}",
        own.source,
        own.baseline,
    )
    values = record[name].max("step")
    return largest.variable(values.values, {"layer": record.layer.values})


__all__ = ["RATES", "EmergenceRun", "measure", "model_config", "tasks_of", "train_spec"]
