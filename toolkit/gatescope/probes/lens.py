"""The logit lens: what the residual stream of every layer would predict, read as if it were the last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gatescope.errors import Refusal
from gatescope.probes._sums import precise
from gatescope.probes.base import Probe, text_positions
from gatescope.records import Quantity
from gatescope.taps import Event

_LENS = "nostalgebraist 2020, interpreting GPT: the logit lens"
_BELROSE = "Belrose et al. 2023, Eliciting Latent Predictions from Transformers with the Tuned Lens"
#: How far the readout of the last layer may be from the model's logits, in units of their largest magnitude.
_TOLERANCE = {torch.bfloat16: 0.05, torch.float16: 0.01}


class LogitLens(Probe):
    """Logits that the model's own final norm and unembedding read from the stream leaving each block.

        p_l = softmax(readout(h_l)),    p = softmax of the model's own logits

    readout  hidden [n D] -> logits [n vocab]: `TinyLM.readout`, or `models.readout_of(model)` for others
    chunk    tokens read at once: at most a few [chunk, vocab] are held, and the hidden states of all layers until the
             logits come

    It costs a reading of every token for every layer, which for a large vocabulary is more than the forward pass.

    Padding is left out, and from the loss the last token of a sequence and of a packed document, which have no next
    token; the site "attention" is watched only to know where documents end. Raises Refusal when the readout of the
    last layer is not the model's logits: final norm or head are then not the model's own.
    """

    name = "lens"
    sites = frozenset({"tokens", "attention", "resid", "logits"})
    quantities = (
        Quantity(
            "lens_loss",
            ("layer",),
            "nats",
            "loss of the logit lens",
            "mean over tokens of -log p_l(next token)",
            _LENS,
            "all tokens alike: log vocab",
        ),
        Quantity(
            "lens_divergence",
            ("layer",),
            "nats",
            "divergence of the logit lens from the model",
            "mean over tokens of KL(p || p_l) = sum_v p(v) (log p(v) - log p_l(v))",
            _BELROSE,
            "p_l all tokens alike: log vocab - H(p)",
        ),
        Quantity(
            "lens_agreement",
            ("layer",),
            "1",
            "share of tokens where lens and model name the same next token",
            "share of tokens with argmax p_l = argmax p",
            _LENS,
            "a token drawn at random: 1/vocab",
        ),
        Quantity(
            "lens_entropy",
            ("layer",),
            "nats",
            "entropy of the logit lens",
            "mean over tokens of -sum_v p_l(v) log p_l(v)",
            _BELROSE,
            "all tokens alike: log vocab",
        ),
    )

    def __init__(self, readout: Callable[[Tensor], Tensor], chunk: int = 256) -> None:
        super().__init__()
        if chunk < 1:
            raise Refusal("LogitLens", "chunk >= 1", str(chunk), "read at least one token at once")
        self.readout, self.chunk = readout, chunk
        self._forget()

    def _forget(self) -> None:
        self._tokens: Tensor | None = None
        self._documents: Tensor | None = None
        self._hidden: dict[int | None, Tensor] = {}

    def reset(self) -> None:
        """Forget everything seen."""
        super().reset()
        self._forget()

    def watch(self, event: Event) -> None:
        """Keep what passes, and read it when the logits come."""
        if event.site == "tokens":
            self._forget()
            self._tokens = event.value
        elif event.site == "attention":
            self._documents = event.value.documents
        elif event.site == "resid":
            self._hidden[event.layer] = event.value.detach()
        else:
            self._read(event)
            self._forget()

    def _read(self, event: Event) -> None:
        logits = event.value.detach()
        if self._tokens is None or not self._hidden or logits.shape[:2] != self._tokens.shape:
            got = "none" if self._tokens is None else f"tokens {tuple(self._tokens.shape)}"
            wanted = f"tokens [B T] = {tuple(logits.shape[:2])} and hidden states before the logits"
            raise Refusal("LogitLens", wanted, got, "give the model token ids, and ask it for the logits of all")
        target, known = _next_tokens(self._tokens, self._documents)
        B, T = target.shape
        text = text_positions(event, (B, T), target.device)
        known = known & text & text.roll(-1, 1)
        rows = text.flatten().nonzero()[:, 0]
        for part in rows.split(self.chunk):
            own = logits.flatten(0, 1)[part]
            if part[0] == rows[0]:
                self._check(own, part)
            model = _Prediction.of(own)
            for layer, hidden in self._hidden.items():
                lens = _Prediction.of(self.readout(hidden.flatten(0, 1)[part]))
                self._add(layer, model, lens, target.flatten()[part], known.flatten()[part])

    def _add(
        self,
        layer: int | None,
        model: _Prediction,
        lens: _Prediction,
        target: Int[Tensor, " n"],
        known: Bool[Tensor, " n"],
    ) -> None:
        dtype = precise(lens.entropy)
        loss = -lens.log.gather(1, target[:, None])[:, 0]
        cross = -(model.share * lens.log).sum(-1)
        self.sums.add(
            layer,
            loss=torch.where(known, loss, 0).sum(dtype=dtype),
            known=known.sum(),
            divergence=(cross - model.entropy).sum(dtype=dtype),
            agreement=(model.top == lens.top).sum(),
            entropy=lens.entropy.sum(dtype=dtype),
            final=model.entropy.sum(dtype=dtype),
            tokens=torch.tensor(len(target), device=target.device),
            vocab=torch.tensor(len(target) * lens.log.shape[1], device=target.device),
        )

    def _check(self, logits: Float[Tensor, "n vocab"], part: Int[Tensor, " n"]) -> None:
        found = self.readout(list(self._hidden.values())[-1].flatten(0, 1)[part])
        if found.shape == logits.shape:
            far = float((found - logits).abs().max() / logits.abs().max().clamp(min=1e-6))
            # NaN is left to the sums, which name its layer.
            if not far > _TOLERANCE.get(logits.dtype, 1e-3):
                return
            got = f"logits that differ by {far:.2g} of the largest"
        else:
            got = f"{tuple(found.shape)} instead of {tuple(logits.shape)}"
        raise Refusal(
            "LogitLens",
            "a readout that gives the model's logits for its last layer",
            got,
            "pass model.readout of a TinyLM, or models.readout_of(model)",
        )

    def finalize(self) -> xr.Dataset:
        """Everything in ``quantities``."""
        sums = self.sums
        seen = ("tokens of text", "give the model text")
        uniform = torch.as_tensor(sums.mean("vocab", "tokens", *seen)).log().mean().item()
        spread = sums.mean("final", "tokens", *seen).mean()
        loss = sums.mean("loss", "known", "tokens with a next token", "give the model two tokens or more")
        return self._record(
            {
                "lens_loss": (loss, {"baseline_value": uniform}),
                "lens_divergence": (
                    sums.mean("divergence", "tokens", *seen),
                    {"baseline_value": uniform - spread},
                ),
                "lens_agreement": (
                    sums.mean("agreement", "tokens", *seen),
                    {"baseline_value": float(torch.tensor(-uniform).exp())},
                ),
                "lens_entropy": (sums.mean("entropy", "tokens", *seen), {"baseline_value": uniform}),
            }
        )


def _next_tokens(
    tokens: Int[Tensor, "B T"], documents: Int[Tensor, "B T"] | None
) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """The token after each, and whether it is of the same sequence and document."""
    known = torch.ones_like(tokens, dtype=torch.bool)
    known[:, -1] = False
    if documents is not None:
        known[:, :-1] &= documents[:, 1:] == documents[:, :-1]
    return tokens.roll(-1, 1).long(), known


@dataclass(frozen=True, slots=True)
class _Prediction:
    """A distribution over the next token, its logarithm, its entropy and its largest entry, for n tokens."""

    log: Float[Tensor, "n vocab"]
    share: Float[Tensor, "n vocab"]
    entropy: Float[Tensor, " n"]
    top: Int[Tensor, " n"]

    @classmethod
    def of(cls, logits: Float[Tensor, "n vocab"]) -> _Prediction:
        """The softmax of some logits, in fp32 at least. A logit of -inf counts as the lowest number: 0 log 0 = 0."""
        log = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        log = log.clamp_(min=torch.finfo(log.dtype).min)
        share = log.exp()
        return cls(log, share, -(share * log).sum(-1), log.argmax(-1))


__all__ = ["LogitLens"]
