"""Plain PyTorch models: scaled_dot_product_attention inside their forward pass goes through `taps.attend`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import FrameType, FunctionType
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from gatescope.errors import UntappableModelError
from gatescope.taps.core import Pass, attend, frame
from gatescope.taps.foreign import Adapter, refuse_unseen
from gatescope.taps.masks import recognise, refuse_dropout, without_mask
from gatescope.taps.sites import AttentionCall

#: Kernels that attend inside, where nothing can be seen.
_CLOSED = {
    getattr(torch, name)
    for name in ("_native_multi_head_attention", "_transformer_encoder_layer_fwd")
    if hasattr(torch, name)
}


class SDPAAdapter(Adapter):
    """Makes a plain model show its attention.

    The layer of an attention is its running number in the forward pass of the outermost attached model, from 0: torch
    knows no blocks. Every call of
    torch.nn.functional.scaled_dot_product_attention is seen, those of nn.MultiheadAttention (with
    need_weights=False, as nn.TransformerEncoderLayer calls it) included; torch's fused fast paths are not taken
    meanwhile.
    """

    sites = frozenset({"attention"})
    more = "call taps.tap(...) in its forward and list the sites in tap_sites"

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Nothing stays between forward passes."""
        yield

    def run(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """One forward pass. Raises UntappableModelError where an attention cannot be computed, or none was seen."""
        running = frame.get()
        if running is None:
            return forward(*args, **kwargs)
        before = running.now.attentions
        with nullcontext() if _routes() else _Routed(self.model, running.now):
            output = forward(*args, **kwargs)
        refuse_unseen(self.model, before)
        return output


class _Routed(TorchFunctionMode):
    def __init__(self, model: nn.Module, now: Pass) -> None:
        super().__init__()
        self.model, self.now = model, now
        # Inside a mode torch calls functions without it, so torch's own multi-head attention runs in a copy whose
        # globals name the routed function.
        whole = functional.multi_head_attention_forward
        names = dict(whole.__globals__)
        self.multi_head = FunctionType(whole.__code__, names, whole.__name__, whole.__defaults__, whole.__closure__)
        self.multi_head.__kwdefaults__ = whole.__kwdefaults__
        names.update(scaled_dot_product_attention=self.attend, multi_head_attention_forward=self.multi_head)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return self.attend(*args, **kwargs)
        if func is functional.multi_head_attention_forward:
            if kwargs.get("need_weights", True):
                raise UntappableModelError(
                    self.where(),
                    "nn.MultiheadAttention called with need_weights=False",
                    "need_weights=True, under which it computes T x T weights by itself",
                    "pass need_weights=False in the model's forward",
                )
            return self.multi_head(*args, **kwargs)
        if func in _CLOSED:
            raise UntappableModelError(
                self.where(),
                "attention by scaled_dot_product_attention",
                f"the fused torch.{func.__name__}",
                "call torch.backends.mha.set_fastpath_enabled(False)",
            )
        return func(*args, **kwargs)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """scaled_dot_product_attention, by the operator."""
        refuse_dropout(dropout_p, self.where)
        if is_causal and attn_mask is not None:
            raise UntappableModelError(
                self.where(), "attn_mask or is_causal", "both", "pass one of them, as torch asks"
            )
        if any(x.is_nested for x in (query, key, value)):
            raise UntappableModelError(self.where(), "padded tensors", "nested tensors", "pad them and pass a mask")
        q, k, v = (_four_dims(x) for x in (query, key, value))
        B = max(x.shape[0] for x in (q, k, v))
        q, k, v = (x.expand(B, -1, -1, -1) for x in (q, k, v))
        T, S = q.shape[2], k.shape[2]
        mask = (
            without_mask(is_causal, T, S, self.where)
            if attn_mask is None
            else recognise(_four_dims(attn_mask), T, S, self.where)
        )
        call = AttentionCall(
            q,
            k[:, :, : mask.length],
            v[:, :, : mask.length],
            visibility=mask.visibility,
            key_mask=None if mask.key_mask is None else mask.key_mask.expand(B, -1),
            scale=scale,
        )
        output = attend(call, layer=self.now.number())
        return output.reshape(*query.shape[:-1], value.shape[-1])

    def where(self) -> str:
        """The module of the model that is running, as its name and class; found on the stack, for messages only."""
        names = {module: name for name, module in self.model.named_modules()}
        place: FrameType | None = sys._getframe()
        while place is not None:
            module = place.f_locals.get("self")
            if isinstance(module, nn.Module) and module in names:
                return f"{names[module] or 'the model'} ({type(module).__name__})"
            place = place.f_back
        return type(self.model).__name__


def _routes() -> bool:
    """Whether a model around this one routes its attention already."""
    return any(isinstance(mode, _Routed) for mode in _get_current_function_mode_stack())


def _four_dims(x: Tensor) -> Shaped[Tensor, "B H T C"]:
    """[... H T C] with the leading dimensions as one, and 1 for those it lacks."""
    x = x[(None,) * max(0, 4 - x.dim())]
    return x.flatten(0, -4) if x.dim() > 4 else x


__all__ = ["SDPAAdapter"]
