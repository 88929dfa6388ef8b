"""How a model reads logits from its residual stream: final norm, then output head, as the model itself does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from gatescope.errors import UntappableModelError

Readout = Callable[[Tensor], Tensor]

#: Where families keep their final norm and their output head, tried in this order. Adding a family is a row.
PLACES: tuple[tuple[str, str], ...] = (
    ("model.norm", "lm_head"),  # llama, mistral, qwen, gemma, phi-3, mixtral, olmoe, deepseek, gpt-oss
    ("transformer.ln_f", "lm_head"),  # gpt2
    ("gpt_neox.final_layer_norm", "embed_out"),  # gpt-neox
    ("gpt_neox.final_layer_norm", "lm_head"),
    ("model.language_model.norm", "lm_head"),  # text side of models that also see
)


def readout_of(model: nn.Module) -> Readout:
    """hidden [... D] -> logits [... vocab], as ``model`` reads its own last layer.

    A model with a method ``readout`` reads with that; a Hugging Face model with the first row of PLACES it has, its
    logits soft-capped where its config says so (Gemma 2):

        logits = cap * tanh(head(norm(hidden)) / cap)

    Raises UntappableModelError for a model of neither kind.
    """
    if callable(own := getattr(model, "readout", None)):
        return own
    for norm_name, head_name in PLACES:
        norm, head = (_submodule(model, name) for name in (norm_name, head_name))
        if norm is not None and head is not None:
            return _of(norm, head, getattr(getattr(model, "config", None), "final_logit_softcapping", None))
    raise UntappableModelError(
        "readout_of",
        "a model with a method readout, or a final norm and an output head at one of "
        + ", ".join(f"({norm}, {head})" for norm, head in PLACES),
        f"{type(model).__name__} with {', '.join(name for name, _ in model.named_children()) or 'no parts'}",
        "pass the callable hidden -> logits yourself, or add a row to models.readout.PLACES",
    )


def _of(norm: nn.Module, head: nn.Module, cap: float | None) -> Readout:
    def read(hidden: Tensor) -> Tensor:
        # The classes' own forward: a reading beside the pass is no business of hooks, taps among them.
        logits = type(head).forward(head, type(norm).forward(norm, hidden))
        return logits if cap is None else (logits / cap).tanh() * cap

    return read


def _submodule(model: nn.Module, name: str) -> nn.Module | None:
    place: Any = model
    for part in name.split("."):
        place = getattr(place, part, None)
    return place if isinstance(place, nn.Module) else None


__all__ = ["PLACES", "Readout", "readout_of"]
