"""Block gates for a whole model, and what they learn from: the block maxima of its own attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gatescope_kernels import block_max_attention
from jaxtyping import Float
from torch import Tensor, nn

from gatescope.errors import Refusal
from gatescope.layers.attention import AttentionSpec
from gatescope.layers.block_gate import BlockGate, BlockGateSpec, distillation_loss
from gatescope.layers.init import spawn
from gatescope.layers.rope import rotate
from gatescope.taps import AttentionCall, Event, Handler


class BlockGates(nn.Module):
    """A `BlockGate` for every layer of a model; the scores that `interventions.SparseBlocks` asks for.

    spec        of each gate
    n_layers    blocks that have one
    rope_theta  base of the RoPE that the model's queries and keys have when they are seen; None: none
    """

    def __init__(
        self,
        spec: BlockGateSpec,
        n_layers: int,
        *,
        rope_theta: float | None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.rope_theta = spec, rope_theta
        self.layers = nn.ModuleList(BlockGate(spec, generator=spawn(generator, layer)) for layer in range(n_layers))

    @classmethod
    def of(
        cls,
        attention: AttentionSpec,
        n_layers: int,
        *,
        block: int = 64,
        width: int = 128,
        generator: torch.Generator | None = None,
    ) -> BlockGates:
        """Gates for a model whose blocks attend as ``attention`` says."""
        sizes = {"n_heads": attention.n_heads, "n_kv_heads": attention.n_kv_heads, "head_dim": attention.head_dim}
        spec = BlockGateSpec(**sizes, block=block, width=width)
        return cls(spec, n_layers, rope_theta=attention.rope_theta, generator=generator)

    def forward(self, call: AttentionCall, layer: int | None, block: int) -> Float[Tensor, "B H nQ nS"]:
        """Logits of one attention. Raises Refusal for a layer without a gate and for another block size."""
        return self.gate(layer, block)(*self.unplaced(call))

    def gate(self, layer: int | None, block: int) -> BlockGate:
        """The gate of a layer. Raises Refusal as `forward` does."""
        if layer is None or not 0 <= layer < len(self.layers) or block != self.spec.block:
            wanted = f"layers 0..{len(self.layers) - 1} in blocks of {self.spec.block}"
            raise Refusal("BlockGates", wanted, f"layer {layer}, blocks of {block}", "use the gates' own block")
        found: BlockGate = self.layers[layer]  # type: ignore[assignment]
        return found

    def unplaced(self, call: AttentionCall) -> tuple[Float[Tensor, "B H T K"], Float[Tensor, "B G S K"]]:
        """q and k of a call with the model's RoPE undone."""
        if self.rope_theta is None:
            return call.q, call.k
        return rotate(call.q, self.rope_theta, back=True), rotate(call.k, self.rope_theta, back=True)


class BlockExamples(Handler):
    """What ``gates`` learn from, kept of every attention that passes: pooled queries and keys, and the block maximum.

        with attached(model, examples):
            model(tokens)
        examples.loss([0, 1]).backward()

    Sequences of one length. The model may be frozen; it is never changed.
    """

    sites = frozenset({"attention"})

    def __init__(self, gates: BlockGates) -> None:
        self.gates = gates
        self._kept: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}

    def watch(self, event: Event) -> None:
        """Keep the blocks of one attention, sequence by sequence."""
        call, block = event.value, self.gates.spec.block
        gate = self.gates.gate(event.layer, block)
        target = block_max_attention(call.q, call.k, block=block, normalise=True, scale=call.scale)
        rows = zip(*(part.split(1) for part in (*gate.pooled(*self.gates.unplaced(call)), target)), strict=True)
        self._kept.setdefault(event.layer or 0, []).extend(rows)

    def __len__(self) -> int:
        return min((len(kept) for kept in self._kept.values()), default=0)

    def loss(self, chosen: Sequence[int]) -> Float[Tensor, ""]:
        """`distillation_loss` of these sequences, the mean over layers. Raises Refusal for sequences not seen."""
        if not chosen or not 0 <= min(chosen) <= max(chosen) < len(self):
            got = f"{list(chosen)} of {len(self)}"
            raise Refusal("BlockExamples", "some of the sequences that passed", got, "let the model read texts first")
        losses = []
        for layer, kept in self._kept.items():
            q, k, target = (torch.cat(parts) for parts in zip(*(kept[one] for one in chosen), strict=True))
            losses.append(distillation_loss(self.gates.gate(layer, self.gates.spec.block).of_pooled(q, k), target))
        return torch.stack(losses).mean()


__all__ = ["BlockExamples", "BlockGates"]
