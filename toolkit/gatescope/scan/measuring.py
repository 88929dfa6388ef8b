"""One text through one model under many probes, without ever holding [T, vocab] or [T, T]."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from gatescope.errors import NonFiniteError, Refusal
from gatescope.models import readout_of
from gatescope.probes import PROBES, LogitLens, Probe
from gatescope.records import Quantity
from gatescope.scan.loading import Opened
from gatescope.scan.words import visible
from gatescope.scope import Scope
from gatescope.taps import Event, Handler, attached, shown

#: Tokens read without --length, and the most that the logit lens reads: it needs the logits of every layer.
DEFAULT_LENGTH, LENS_LENGTH = 2048, 2048
#: Tokens whose logits are held at once.
CHUNK = 256
#: Not measured unless named: a reading of every layer's logits, a rounding of every activation, a sorting of every row.
_ON_REQUEST = frozenset({"lens", "outliers", "state_size"})
LOSS = Quantity(
    "next_token_loss",
    ("token",),
    "nats",
    "loss of the next token",
    "-log softmax(logits_i)[token i+1]; NaN at the last token",
    "cross-entropy of the model's own logits",
    "all tokens alike: log vocab",
)


def tokenise(opened: Opened, text: str, length: int | None) -> tuple[Int[Tensor, "1 T"], int]:
    """The first ``length`` tokens of ``text``, the first `DEFAULT_LENGTH` when None, and how many it has.

    Raises Refusal for a text of fewer than two tokens, or of fewer than the ``length`` that was asked for.
    """
    if not text.strip():
        raise Refusal("scan", "a text with at least one word", repr(text[:40]), "pass --prompt or another --text")
    if length is not None and length < 2:
        raise Refusal("scan", "a length of 2 tokens or more", str(length), "raise --length")
    tokens = opened.encode(text)
    T = tokens.shape[1]
    if (length or 2) > T:
        raise Refusal(
            "scan", f"a text of {length or 2} tokens or more", f"{T}", "pass a longer text, or lower --length"
        )
    return tokens[:, : length or DEFAULT_LENGTH], T


def choose_probes(opened: Opened, names: Sequence[str] | None) -> list[Probe]:
    """The probes named, or all that the model shows places for, but those that cost more than the pass itself.

    Raises Refusal for a name that is no probe.
    """
    if unknown := sorted(set(names or ()) - set(PROBES)):
        raise Refusal("scan", f"probes among {', '.join(PROBES)}", ", ".join(unknown), "correct --probes")
    if names is None:
        sites = shown(opened.trunk)
        names = [name for name, probe in PROBES.items() if name not in _ON_REQUEST and probe.sites <= sites]
    return [_made(opened, name) for name in dict.fromkeys(names)]


def measure(
    opened: Opened, tokens: Int[Tensor, "1 T"], probes: Sequence[Probe], *, progress: bool = True, **attrs: Any
) -> xr.Dataset:
    """The record of one forward pass: what ``probes`` saw, the loss of every next token, the tokens as ``piece``.

    The logits are computed a few hundred tokens at a time. ``attrs`` are added to the record. Raises Refusal when the
    model has no positions for so many tokens or a probe cannot be had, NonFiniteError for NaN.
    """
    T = tokens.shape[1]
    lens = any(isinstance(probe, LogitLens) for probe in probes)
    if lens and T > LENS_LENGTH:
        raise Refusal(
            "scan", f"at most {LENS_LENGTH} tokens for the probe lens", f"{T}", "lower --length or leave it out"
        )
    subject = opened.model if lens else opened.trunk
    bar = tqdm(total=opened.n_layers, desc=f"{T:,} tokens", unit="layer", disable=not progress)
    arguments = {"use_cache": False} if _caches(subject) else {}
    with torch.no_grad(), bar, Scope(subject, probes) as scope, attached(subject, _Progress(bar, shown(subject))):
        try:
            output = subject(tokens, **arguments)
        except IndexError as error:
            raise Refusal(
                "scan", f"at most the {opened.context} tokens this model has positions for", f"{T}", "lower --length"
            ) from error
    record = scope.record(**_about(opened, tokens), **opened.about, **attrs).assign_attrs(model=visible(opened.name))
    readout = _own_logits if lens else opened.readout
    if readout is not None:
        hidden = output if isinstance(output, Tensor) else output[0]
        loss = next_token_loss(readout, hidden, tokens)
        coords = {"token": record["token"].values} if "token" in record.coords else None
        about = {"baseline_value": math.log(opened.vocab)}
        record = record.assign(next_token_loss=LOSS.variable(loss, coords, **about))
    if "key_mass" in record:  # the one variable of layers x heads x T
        record["key_mass"] = record["key_mass"].astype("float32")
    return record.assign_coords(piece=("token", opened.pieces(tokens))) if "token" in record.dims else record


def next_token_loss(
    readout: Callable[[Tensor], Tensor], hidden: Float[Tensor, "1 T D"], tokens: Int[Tensor, "1 T"], chunk: int = CHUNK
) -> Float[np.ndarray, " T"]:
    """-log softmax(readout(hidden_i))[token i+1], NaN at the last i, with the logits of ``chunk`` tokens at a time.

    Raises NonFiniteError for a loss that is NaN or infinite.
    """
    target = tokens[0, 1:]
    parts = []
    with torch.no_grad():
        for start in range(0, len(target), chunk):
            logits = readout(hidden[0, start : min(start + chunk, len(target))])
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            parts.append(functional.cross_entropy(logits, target[start : start + chunk], reduction="none"))
    loss = torch.cat(parts).double()
    if not loss.isfinite().all():
        raise NonFiniteError("scan", "finite losses", "NaN or infinity", "check the weights")
    return np.append(loss.numpy(), np.nan)


def beyond_context(opened: Opened, T: int) -> str | None:
    """A sentence where the text is longer than what the model was trained on, else None."""
    if opened.context is None or opened.context >= T:
        return None
    return f"T = {T:,} lies beyond the trained context of {opened.context:,}: the model never saw such positions"


class _Progress(Handler):
    """Moves a bar by one at every block."""

    def __init__(self, bar: Any, sites: frozenset[str]) -> None:
        self.sites, self._bar = frozenset({"resid"} if "resid" in sites else {"attention"}), bar

    def watch(self, event: Event) -> None:
        self._bar.update()


def _made(opened: Opened, name: str) -> Probe:
    return LogitLens(readout_of(opened.model)) if name == LogitLens.name else PROBES[name]()


def _caches(model: Any) -> bool:
    return hasattr(getattr(model, "config", None), "use_cache") or "decoder" in type(model).__name__.lower()


def _own_logits(logits: Tensor) -> Tensor:
    return logits


def _about(opened: Opened, tokens: Int[Tensor, "1 T"]) -> dict[str, Any]:
    first = opened.pieces(tokens[:, :1])[0]
    added = opened.bos_id is not None and int(tokens[0, 0]) == opened.bos_id
    # Figures print this line, in a font that does not know every script.
    spelled = ascii(first)
    about: dict[str, Any] = {
        "T": tokens.shape[1],
        "bos": f"{spelled}, added by the tokenizer" if added else f"none added, the text starts with {spelled}",
        "vocab": opened.vocab,
        "tokens_sha256": hashlib.sha256(tokens.numpy().tobytes()).hexdigest(),
        "files": opened.files,
    }
    if opened.context is not None:
        about["context"] = opened.context
    if note := beyond_context(opened, tokens.shape[1]):
        about["note"] = note
    if not hasattr(opened.trunk, "tap_sites"):
        about["transformers"] = version("transformers")
    return about


__all__ = ["DEFAULT_LENGTH", "LOSS", "beyond_context", "choose_probes", "measure", "next_token_loss", "tokenise"]
