"""What passes at a tap: the sites, the values they carry, and what a handler is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from gatescope_kernels import AttentionStats, Visibility
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gatescope.taps.blocks import BlockMask


@dataclass(frozen=True, slots=True)
class Site:
    """A place a model may show: its name, the shape that passes there, and what it is."""

    name: str
    shape: str
    meaning: str


_SITES = (
    Site("tokens", "B T", "token ids the model was given"),
    Site("key_mask", "B T or None", "False on padding, None without padding; shown before the first block"),
    Site("embed", "B T D", "residual stream entering the first block"),
    Site("resid", "B T D", "residual stream leaving block `layer`"),
    Site("attention", "AttentionCall", "one attention: q, k, v, gate, sink, visibility; its output and statistics"),
    Site("linear_attention", "LinearAttentionCall", "one linear attention: q, k, v, log decays g, learning rates beta"),
    Site("router", "RouterScores", "what one router said of each token, and the experts it chose"),
    Site(
        "mlp",
        "B T F",
        "hidden activations of a dense block as its down projection reads them; experts show none",
    ),
    Site("attention_update", "B T D", "what the attention of block `layer` adds to the residual stream"),
    Site("mlp_update", "B T D", "what the MLP or the experts of block `layer` add to the residual stream"),
    Site("gate", "GateScores", "scores [B N T W] of one gate, its position, how it combines; use .scores"),
    Site("logits", "B T vocab", "next-token logits"),
)
SITES: dict[str, Site] = {site.name: site for site in _SITES}

#: Statistics that come with every measured attention; a handler that needs no others asks for one of these.
ALWAYS = frozenset({"lse", "visible", "sink_mass"})


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """The arguments of one `gated_attention`, as a value that interventions can edit with `dataclasses.replace`.

    blocks  which key blocks are read, None for all; see `BlockMask`
    """

    q: Float[Tensor, "B H T K"]
    k: Float[Tensor, "B G S K"]
    v: Float[Tensor, "B G S V"]
    gate: Float[Tensor, "B H T W"] | None = None
    combine: str = "multiply"
    sink: Float[Tensor, " H"] | float | None = None
    visibility: Visibility = field(default_factory=Visibility)
    key_mask: Bool[Tensor, "B S"] | None = None
    scale: float | None = None
    documents: Int[Tensor, "B T"] | None = None
    softcap: float | None = None
    blocks: BlockMask | None = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the operator, which reads every key: a block mask is spelled in its logits."""
        call = self.spelled()
        return {name: getattr(call, name) for name in self.__slots__ if name != "blocks"}

    def spelled(self) -> AttentionCall:
        """The same attention without ``blocks``: what the mask hides has 1,000 nats taken off its logits."""
        if self.blocks is None:
            return self
        q, k, scale = self.blocks.channels(self.q, self.k, self.scale)
        return replace(self, q=q, k=k, scale=scale, blocks=None)

    def plain(self) -> bool:
        """Whether this is causal attention over its own sequence, with blocks or without, and nothing besides."""
        beside = (self.gate, self.sink, self.key_mask, self.documents, self.softcap)
        alone = all(one is None for one in beside) and self.visibility == Visibility()
        return alone and self.q.shape[2] == self.k.shape[2]


@dataclass(frozen=True, slots=True)
class LinearAttentionCall:
    """The arguments of one `gated_linear_attention`, as a value that interventions can edit with `dataclasses.replace`.

    g is [B H T 1] where all channels of a head decay alike.
    """

    q: Float[Tensor, "B H T K"]
    k: Float[Tensor, "B H T K"]
    v: Float[Tensor, "B H T V"]
    g: Float[Tensor, "B H T W"]
    beta: Float[Tensor, "B H T"] | None = None
    scale: float | None = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the operator."""
        alike = self.g.shape[-1] == 1 and self.k.shape[-1] > 1
        return {name: getattr(self, name) for name in self.__slots__} | {"g": self.g[..., 0] if alike else self.g}


@dataclass(frozen=True, slots=True)
class GateScores:
    """Scores of one gate and what the model does with them.

    scores    [B N T W]: N heads (query heads, key-value heads, or 1 when shared or after W_O), W channels (1 when
              head-wise). A gate without input shows the same scores for every sequence and token, expanded.
    position  where the gate sits, a position of gates.GateSpec ("sdpa", "value", "key", "query", "output"), or "decay":
              what the state of linear attention keeps of itself at a token
    combine   "multiply": Y * scores; "add": Y + scores
    """

    scores: Float[Tensor, "B N T W"]
    position: str
    combine: str = "multiply"

    @property
    def identity(self) -> float:
        """The score that leaves Y as it is: 1 for a multiplied gate, 0 for an added one."""
        return 1.0 if self.combine == "multiply" else 0.0


@dataclass(frozen=True, slots=True)
class RouterScores:
    """What one router said of each token, its meaning settled: families call different things ``router_logits``.

    logits         before any activation                                                            [B T E]
    probabilities  softmax or sigmoid of the logits, as ``kind`` says; without the selection bias   [B T E]
    index          the experts whose outputs are added                                              [B T k]
    weight         what those outputs are multiplied by, as the model does (renormalised, scaled)   [B T k]
    kind           "softmax" or "sigmoid"
    bias           added to the probabilities for the selection only; None where there is none      [E]
    shared         experts beside them that every token visits
    """

    logits: Float[Tensor, "B T E"]
    probabilities: Float[Tensor, "B T E"]
    index: Int[Tensor, "B T k"]
    weight: Float[Tensor, "B T k"]
    kind: str
    bias: Float[Tensor, " E"] | None = None
    shared: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """What a watcher receives.

    site, layer  where it passed; layer is None for places outside the blocks
    value        what the model went on with
    output       for attention: its result [B H T V], gate included
    stats        for attention: the statistics that all handlers asked for together
    key_mask     the model's own padding of this forward pass: True on text, False on padding; None without padding.
                 Interventions on single attentions do not change it.
    """

    site: str
    layer: int | None
    value: Any
    output: Tensor | None = None
    stats: AttentionStats | None = None
    key_mask: Bool[Tensor, "B S"] | None = None


class Handler:
    """Base of everything that is attached to a model.

    sites      names from SITES this handler wants; an unknown name is refused when it is attached.
    stats      attention statistics wanted (gatescope_kernels.STATISTICS, or a name of taps.ALWAYS); computed once for
               all handlers together.
    mass_keys  keys whose mass is wanted, 0-based; with "mass" in stats.
    """

    sites: frozenset[str] = frozenset()
    stats: frozenset[str] = frozenset()
    mass_keys: tuple[int, ...] = ()

    def edit(self, site: str, layer: int | None, value: Any) -> Any:
        """Return the value the model shall go on with. The default changes nothing."""
        return value

    def watch(self, event: Event) -> None:
        """See what passed, under ``no_grad``. Must not change it."""
