"""The attention that Hugging Face models call while handlers are attached."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gatescope.errors import UntappableModelError
from gatescope.taps.core import attend, edits, frame, listeners
from gatescope.taps.masks import Mask, Where, describe, recognise, refuse_dropout, without_mask
from gatescope.taps.sites import AttentionCall

#: The name of the attention and of its mask function in transformers' registries.
NAME = "gatescope"

#: What other kernels would read and this one, like eager attention, would not.
_UNREAD = ("cu_seq_lens_q", "cu_seq_lens_k", "position_bias", "head_mask")


def register() -> None:
    """Register the attention and its mask function with transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, describe)


def attention(
    module: nn.Module,
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "B G S K"],
    value: Float[Tensor, "B G S V"],
    attention_mask: Mask | Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Float[Tensor, " H"] | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "B T H V"], None]:
    """The signature of transformers' attention functions, on top of `taps.attend`.

    Windows come with the mask, as for eager attention. Rows that see no key, which left padding makes, are zero here
    and uniform in eager attention; no text reads them.

    Raises UntappableModelError naming the module for what the operator cannot compute or handlers could not read.
    """
    where = partial(_named, module)
    refuse_dropout(dropout, where)
    _refuse_unread(others, where)
    B, _, T, _ = query.shape
    if attention_mask is None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        mask = without_mask(causal and T > 1, T, key.shape[2], where)
    else:
        mask = attention_mask if isinstance(attention_mask, Mask) else recognise(attention_mask, T, key.shape[2], where)
    if mask.dropped:
        _refuse_dropped(mask.dropped, where)
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    running = frame.get()
    call = AttentionCall(
        query,
        key[:, :, : mask.length],
        value[:, :, : mask.length],
        gate=None if running is None else running.now.gates.pop(module, None),
        sink=s_aux,
        visibility=mask.visibility,
        key_mask=None if mask.key_mask is None else mask.key_mask.to(query.device).expand(B, -1),
        scale=scaling,
        documents=None if mask.documents is None else mask.documents.to(query.device),
        softcap=softcap,
    )
    return attend(call, layer=_layer(module, where)).transpose(1, 2), None


def _named(module: nn.Module) -> str:
    layer = getattr(module, "layer_idx", None)
    return f"{type(module).__name__} {'without layer_idx' if layer is None else f'of layer {layer}'}"


def _layer(module: nn.Module, where: Where) -> int:
    """The block index a module carries; without one, the running number of attention modules in the pass."""
    running, layer = frame.get(), getattr(module, "layer_idx", None)
    if running is None:
        return layer or 0
    owners = running.now.owners
    if layer is None:
        layer = next((number for number, owner in owners.items() if owner is module), len(owners))
    owner = owners.setdefault(layer, module)
    if owner is not module and listeners("attention"):
        raise UntappableModelError(
            where(),
            "one attention a layer",
            f"{_named(owner)} before it in the same pass",
            "attach to a part: the encoder, the decoder without cross-attention, the language model",
        )
    return layer


def _refuse_unread(others: dict[str, Any], where: Where) -> None:
    for name, given in others.items():
        bias = isinstance(given, Tensor) and given.is_floating_point() and given.dim() == 4
        if given is not None and (name in _UNREAD or bias):
            raise UntappableModelError(
                where(),
                "q, k, v, a mask, a scale and a learned sink",
                f"{name} as well",
                "pack sequences by position_ids that restart"
                if name.startswith("cu_seq")
                else f"call the model without {name}, or leave handlers out",
            )


def _refuse_dropped(dropped: int, where: Where) -> None:
    for handler in listeners("attention"):
        if edits(handler) or handler.stats & {"mass", "key_mass"}:
            raise UntappableModelError(
                type(handler).__name__,
                f"keys that can be counted from the first token in {where()}",
                f"a sliding cache that has dropped the first {dropped}",
                "decode with a cache that keeps all keys: cache=DynamicCache(), made without a config",
            )


__all__ = ["NAME", "attention", "register"]
