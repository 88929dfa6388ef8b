"""Scope: a model, some probes, and the record of what they saw."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch
import xarray as xr
from torch import nn

from gatescope import records
from gatescope.errors import Refusal
from gatescope.probes import PROBES, Probe
from gatescope.taps import Event, Handler, attached, shown


class Scope:
    """Watches every forward pass of ``model`` inside its block with all ``probes`` at once.

        with Scope(model, probes=[Sinks(), Entropy(), Massive()]) as scope:
            model(tokens)
        record = scope.record(seed=0)

    Works at inference and while training (nothing a probe does enters the graph), several passes add up, scopes may
    nest, and a block may be entered again to go on. What attention statistics the probes want is computed once for
    all of them. The model is as before when the block ends, whatever ends it.

    Raises Refusal for no probes or two of one name; entering raises UntappableModelError for a model that does not
    show what a probe needs.
    """

    def __init__(self, model: nn.Module, probes: Iterable[Probe]) -> None:
        self.model, self.probes = model, tuple(probes)
        if not self.probes:
            raise Refusal("Scope", f"at least one probe of {', '.join(PROBES)}", "none", "pass probes=[Sinks()]")
        for probe in self.probes:
            if not isinstance(probe, Probe):
                found = f"the class {probe.__name__}" if isinstance(probe, type) else repr(probe)
                raise Refusal("Scope", "probes (instances of Probe)", found, "make one, as in probes=[Sinks()]")
        names = [probe.name for probe in self.probes]
        if len(set(names)) < len(names):
            raise Refusal(
                "Scope", "probes of different names", str(names), "use a second Scope for the second of a kind"
            )
        self._counter = _Counter()
        self._block = ExitStack()

    def __enter__(self) -> Self:
        self._block.enter_context(attached(self.model, *self.probes, self._counter.fitted(self.model)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._block.__exit__(kind, error, trace)

    def record(self, *, seed: int | None = None, created: bool = True, **attrs: Any) -> xr.Dataset:
        """What the probes saw so far, inside the block or after it, as one record with its provenance.

        ``attrs`` become attributes of the record, beside the model's class, its config as JSON where it has one
        (``model.config.to_dict()``), its dtype and device, and the sequences and tokens seen (padding not counted).
        ``created=False`` leaves the time out. Raises Refusal when no forward pass ran or a probe saw too little,
        NonFiniteError when what was seen holds NaN.
        """
        if not self._counter.passes:
            raise Refusal(
                "Scope.record", "at least one forward pass inside the block", "none", "call model(tokens) in the block"
            )
        weight = next(self.model.parameters(), None)
        about = {"model": type(self.model).__name__}
        config = getattr(self.model, "config", None)
        if hasattr(config, "to_dict"):
            about["model_config"] = json.dumps(config.to_dict(), sort_keys=True, default=str)
        if weight is not None:
            about["device"] = weight.device.type
        source = records.provenance(
            dtype=None if weight is None else str(weight.dtype).removeprefix("torch."),
            seed=seed,
            n_samples=self._counter.samples,
            n_tokens=int(self._counter.tokens),
            torch=str(torch.__version__),
            created=created,
        )
        return records.merge([probe.finalize() for probe in self.probes], **source, **about, **attrs)

    def merged(self, group: Any = None) -> Scope:
        """A scope that saw what the scopes of all processes of a torch.distributed ``group`` saw; every one gets it.

            record = scope.merged().record()

        Every process calls it, as it does any collective; this scope stays as it is and may go on, so that it can be
        called again. Numbers are those of one process that ran all the passes, whatever their share: counts and sums
        are added, rankings are ranked again. Under DDP and FSDP each process watches its own batches.

        Raises Refusal when no process group is initialised, when processes have different probes, and for what a probe
        keeps of a single sequence (keep=True) in two of them.
        """
        from torch import distributed

        if not (distributed.is_available() and distributed.is_initialized()):
            step = "call torch.distributed.init_process_group first, or read scope.record() in a single process"
            raise Refusal("Scope.merged", "an initialised process group", "none", step)
        own = (
            [probe.name for probe in self.probes],
            [probe.sums.on_cpu() for probe in self.probes],
            self._counter.seen,
        )
        parts: list[Any] = [None] * distributed.get_world_size(group)
        distributed.all_gather_object(parts, own, group)
        names = [part[0] for part in parts]
        if any(other != names[0] for other in names):
            raise Refusal("Scope.merged", "the same probes in every process", str(names), "give all of them one list")
        whole = Scope(self.model, [probe.merged(part[1][i] for part in parts) for i, probe in enumerate(self.probes)])
        for _, _, seen in parts:
            whole._counter.add(*seen)
        return whole

    def reset(self) -> None:
        """Forget everything seen; the block goes on."""
        for probe in self.probes:
            probe.reset()
        self._counter.reset()


class _Counter(Handler):
    """Counts forward passes, sequences and tokens at the first site a model shows."""

    # The padding is known from "embed" on.
    _PREFERRED = ("embed", "resid", "attention", "gate", "logits", "tokens")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.passes = self.samples = 0
        self.tokens: int | torch.Tensor = 0
        self._first: int | None = None

    def fitted(self, model: nn.Module) -> _Counter:
        """Itself, watching one site that ``model`` shows."""
        sites = shown(model)
        self.sites = frozenset([site for site in self._PREFERRED if site in sites][:1])
        return self

    def watch(self, event: Event) -> None:
        if not self.passes:
            self._first = event.layer
        if event.layer != self._first:
            return
        if event.site in ("attention", "gate"):
            tensor = event.value.q if event.site == "attention" else event.value.scores
            B, _, T, _ = tensor.shape
        else:
            B, T = event.value.shape[:2]
        self.add(1, B, B * T if event.key_mask is None else event.key_mask[:, -T:].sum())

    @property
    def seen(self) -> tuple[int, int, int]:
        """Passes, sequences and tokens so far."""
        return self.passes, self.samples, int(self.tokens)

    def add(self, passes: int, samples: int, tokens: int | torch.Tensor) -> None:
        """Count more of them."""
        self.passes, self.samples, self.tokens = self.passes + passes, self.samples + samples, self.tokens + tokens


__all__ = ["Scope"]
