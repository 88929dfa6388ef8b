"""Named places in a forward pass, and the handlers that watch or edit what passes there.

A model calls ``x = tap("resid", x, layer=3)`` or ``y = attend(call, layer=3)``; with no handler attached both cost one
lookup. A handler may edit a value (interventions) or watch it (probes); every edit happens before any watching, so a
probe always sees what the model went on to use. Statistics of attention are asked for by watchers and computed once,
in the same call that computes the output.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from gatescope_kernels import AttentionStats, Visibility, gated_attention, gated_attention_with_stats
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gatescope.errors import Refusal, UntappableModelError


@dataclass(frozen=True, slots=True)
class Site:
    """A place a model may show: its name, the shape that passes there, and what it is."""

    name: str
    shape: str
    meaning: str


_SITES = (
    Site("tokens", "B T", "token ids the model was given"),
    Site("embed", "B T D", "residual stream entering the first block"),
    Site("resid", "B T D", "residual stream leaving block `layer`"),
    Site("attention", "AttentionCall", "one attention: q, k, v, gate, sink, visibility; output [B H T V] and statistics"),
    Site("gate", "B N T W", "gate scores; N heads (1 when shared or after W_O), W channels (1 when head-wise)"),
    Site("logits", "B T vocab", "next-token logits"),
)
SITES: dict[str, Site] = {site.name: site for site in _SITES}


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """The arguments of one `gated_attention`, as a value that interventions can edit with `dataclasses.replace`."""

    q: Float[Tensor, "B H T K"]
    k: Float[Tensor, "B G S K"]
    v: Float[Tensor, "B G S V"]
    gate: Float[Tensor, "B H T W"] | None = None
    combine: str = "multiply"
    sink: Float[Tensor, " H"] | float | None = None
    visibility: Visibility = Visibility()
    key_mask: Bool[Tensor, "B S"] | None = None
    scale: float | None = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the operator."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Event:
    """What a watcher receives: the site, the block it belongs to, the value that passed, and for attention its result."""

    site: str
    layer: int | None
    value: Any
    output: Tensor | None = None
    stats: AttentionStats | None = None


class Handler:
    """Base of everything that is attached to a model.

    sites   names from SITES this handler wants; an unknown name is refused when it is attached.
    stats   attention statistics wanted (gatescope_kernels.STATISTICS); computed once for all handlers together.
    keys    keys whose mass is wanted.
    """

    sites: frozenset[str] = frozenset()
    stats: frozenset[str] = frozenset()
    keys: tuple[int, ...] = ()

    def edit(self, site: str, layer: int | None, value: Any) -> Any:
        """Return the value the model shall go on with. The default changes nothing."""
        return value

    def watch(self, event: Event) -> None:
        """See what passed. Must not change it."""


_active: ContextVar[tuple[Handler, ...]] = ContextVar("gatescope_taps", default=())


def _wanting(site: str) -> list[Handler]:
    return [handler for handler in _active.get() if site in handler.sites]


def tap(site: str, value: Any, *, layer: int | None = None) -> Any:
    """Show ``value`` at ``site`` to the attached handlers and return what the model shall go on with.

    Raises Refusal for a site that is not in SITES.
    """
    if site not in SITES:
        raise Refusal("tap", f"a site of {tuple(SITES)}", repr(site), "add a row to taps.SITES")
    handlers = _wanting(site)
    for handler in handlers:
        value = handler.edit(site, layer, value)
    for handler in handlers:
        handler.watch(Event(site, layer, value))
    return value


def attend(call: AttentionCall, *, layer: int | None = None) -> Float[Tensor, "B H T V"]:
    """Run one attention through the operator, letting handlers edit the call and see output and statistics."""
    handlers = _wanting("attention")
    if not handlers:
        return gated_attention(**call.arguments())
    for handler in handlers:
        call = handler.edit("attention", layer, call)
    stats = tuple(sorted(set().union(*(handler.stats for handler in handlers))))
    keys = tuple(sorted({key for handler in handlers for key in handler.keys if key < call.k.shape[2]}))
    if not stats:
        output, result = gated_attention(**call.arguments()), None
    else:
        output, result = gated_attention_with_stats(**call.arguments(), stats=stats, keys=keys)
    for handler in handlers:
        handler.watch(Event("attention", layer, call, output, result))
    return output


@contextmanager
def attached(model: nn.Module, *handlers: Handler) -> Iterator[None]:
    """Attach handlers to every forward pass of ``model`` until the block ends, whatever ends it.

    A model emits taps when it has a class attribute ``tap_sites``: the sites its forward pass shows.
    Raises UntappableModelError for a model that shows no taps, or not those a handler wants.
    """
    shown = getattr(model, "tap_sites", None)
    if shown is None:
        raise UntappableModelError(
            type(handlers[0]).__name__ if handlers else "attached",
            "a model that emits taps (attribute tap_sites)",
            f"{type(model).__name__}, which has none",
            "load it as a gatescope model, or call taps.tap(...) in its forward and list the sites in tap_sites",
        )
    for handler in handlers:
        missing = handler.sites - set(shown)
        if missing:
            raise UntappableModelError(
                type(handler).__name__,
                f"sites {sorted(handler.sites)}",
                f"{type(model).__name__}, which does not show {sorted(missing)}",
                "use a model that has them, or leave this handler out",
            )
    tokens: list[Any] = []

    def enter(*_: Any) -> None:
        tokens.append(_active.set((*_active.get(), *handlers)))

    def leave(*_: Any) -> None:
        if tokens:
            _active.reset(tokens.pop())

    hooks = [
        model.register_forward_pre_hook(enter, prepend=True),
        model.register_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        while tokens:
            leave()


__all__ = ["SITES", "AttentionCall", "Event", "Handler", "Site", "attached", "attend", "tap"]
