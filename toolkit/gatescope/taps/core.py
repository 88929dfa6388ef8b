"""One forward pass: who listens, and the calls by which a model shows what passes.

A model calls ``x = tap("resid", x, layer=3)`` or ``y = attend(call, layer=3)``; with no handler attached both cost one
lookup. A handler may edit a value (interventions) or watch it (probes). At each place every edit happens before any
watching, so a probe always sees what the model went on to use, whatever the order of attaching. Edits apply in the
order of attaching. Statistics of attention are asked for by watchers and computed once, in the same call that computes
the output. Watching runs under ``no_grad``: a probe never adds to the graph of a training step.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import torch
from gatescope_kernels import STATISTICS, block_sparse_attention, gated_attention, gated_attention_with_stats
from jaxtyping import Float
from torch import Tensor

from gatescope.errors import Refusal
from gatescope.taps.sites import SITES, AttentionCall, Event, Handler


class Pass:
    """What is known of one forward pass while it runs, shared by every attached model that runs within it.

    key_mask    the padding the model showed
    attentions  how many attentions a handler has seen
    numbers     how many layers were numbered as they ran, for models that do not number them
    owners      which module shows the attention of a layer: adapters find two modules of one number by it
    shape       B and T, for adapters of modules that see tokens flattened
    gates       gate scores on their way from the projection to the attention they belong to
    """

    __slots__ = ("attentions", "gates", "key_mask", "numbers", "owners", "shape")

    def __init__(self) -> None:
        self.key_mask: Tensor | None = None
        self.attentions = self.numbers = 0
        self.owners: dict[int, Any] = {}
        self.shape: tuple[int, int] | None = None
        self.gates: dict[Any, Tensor] = {}

    def number(self) -> int:
        """The next running number."""
        self.numbers += 1
        return self.numbers - 1


class Frame:
    """The handlers of one attached model, those of models around it included, and the pass it runs in."""

    __slots__ = ("handlers", "now")

    def __init__(self, handlers: tuple[Handler, ...], now: Pass) -> None:
        self.handlers, self.now = handlers, now


frame: ContextVar[Frame | None] = ContextVar("gatescope_taps", default=None)


def listeners(site: str) -> list[Handler]:
    """The handlers that want ``site`` of the running forward pass."""
    running = frame.get()
    return [] if running is None else [handler for handler in running.handlers if site in handler.sites]


def edits(handler: Handler) -> bool:
    """Whether a handler can change what passes."""
    return type(handler).edit is not Handler.edit


def _edited(handlers: list[Handler], site: str, layer: int | None, value: Any) -> Any:
    for handler in handlers:
        before, value = value, handler.edit(site, layer, value)
        kept = type(value) is type(before) or (isinstance(value, Tensor) and isinstance(before, Tensor))
        if kept and isinstance(value, Tensor):
            kept = value.shape == before.shape and value.dtype == before.dtype and value.device == before.device
        if not kept:
            raise Refusal(
                type(handler).__name__,
                f"an edit at {site!r} (layer {layer}) that keeps {_kind(before)}",
                _kind(value),
                "return the value from edit(), with the shape, dtype and device it came with",
            )
    return value


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)} on {value.device}"
    return type(value).__name__


@torch.no_grad()
def _shown(handlers: list[Handler], event: Event) -> None:
    for handler in handlers:
        handler.watch(event)


def tap(site: str, value: Any, *, layer: int | None = None) -> Any:
    """Show ``value`` at ``site`` to the attached handlers and return what the model shall go on with.

    Raises Refusal for a site that is not in SITES, or an edit that changes type, shape, dtype or device.
    """
    if site not in SITES:
        raise Refusal("tap", f"a site of {tuple(SITES)}", repr(site), "add a row to taps.SITES")
    running, handlers = frame.get(), listeners(site)
    if running is None or (not handlers and site != "key_mask"):
        return value
    value = _edited(handlers, site, layer, value)
    if site == "key_mask":
        running.now.key_mask = value
    _shown(handlers, Event(site, layer, value, key_mask=running.now.key_mask))
    return value


def attend(call: AttentionCall, *, layer: int | None = None) -> Float[Tensor, "B H T V"]:
    """Run one attention through the operator, letting handlers edit the call and see output and statistics.

    Raises Refusal when a handler asks for the mass on a key that this call does not have.
    """
    running, handlers = frame.get(), listeners("attention")
    if running is None or not handlers:
        return gated_attention(**call.arguments())
    running.now.attentions += 1
    padding = call.key_mask if running.now.key_mask is None else running.now.key_mask
    if padding is not None and padding.shape[1] > call.k.shape[2]:
        padding = padding[:, -call.k.shape[2] :]  # a cache that dropped the oldest keys
    call = _edited(handlers, "attention", layer, call)
    wanted = frozenset().union(*(handler.stats for handler in handlers))
    if not wanted:
        output, result = _output(call), None
    else:
        call = call.spelled()
        stats, keys = tuple(name for name in STATISTICS if name in wanted), _keys(handlers, call.k.shape[2])
        output, result = gated_attention_with_stats(**call.arguments(), stats=stats, keys=keys)
    _shown(handlers, Event("attention", layer, call, output, result, padding))
    return output


def _output(call: AttentionCall) -> Float[Tensor, "B H T V"]:
    """The attention itself: where blocks are all that is masked, at the price of those that are read."""
    if call.blocks is None or not call.plain():
        return gated_attention(**call.arguments())
    mask, block = call.blocks.mask, call.blocks.block
    return block_sparse_attention(call.q, call.k, call.v, mask, block=block, scale=call.scale)


def _keys(handlers: list[Handler], length: int) -> tuple[int, ...]:
    for handler in handlers:
        beyond = [key for key in handler.mass_keys if not 0 <= key < length]
        if beyond:
            raise Refusal(
                type(handler).__name__,
                f"keys below {length}, the number of keys of this attention",
                str(beyond),
                "give the model a longer input or choose earlier keys",
            )
    return tuple(sorted({key for handler in handlers for key in handler.mass_keys}))


__all__ = ["Frame", "Pass", "attend", "edits", "frame", "listeners", "tap"]
