"""How the two gates of lesson 07 are trained on a frozen SmolLM2, and how they are kept in data/."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from gatescope import data
from gatescope.checkpoints import load_weights, read_tensors, write_tensors
from gatescope.layers import AttentionSpec, BlockExamples, BlockGates
from gatescope.models import next_token_nll
from gatescope.models.smollm2 import Pretrained
from gatescope.models.tiny_lm import LMConfig
from gatescope.paths import data_dir
from gatescope.policies import AttentionGate, AttentionGateSpec, Evict
from gatescope.taps import attached
from torch import Tensor, nn

from gatescope_lessons.l07_learning_what_not_to_read.texts import BLOCK, crops

SEEDS = (0, 1, 2)
#: Channels in which a block gate compares blocks, and of the reduced attention of an eviction gate.
BLOCK_WIDTH, FLAG_WIDTH = 16, 4
#: Sequences that block gates learn from, those of a step, and steps.
EXAMPLES, BATCH, BLOCK_STEPS, BLOCK_LR = 32, 8, 120, 5e-3
#: Steps of an eviction gate, one sequence each, and the budgets that it meets in turn.
FLAG_STEPS, FLAG_LR, FLAG_BUDGETS = 30, 1e-2, (16, 32, 64)
EVERY = 8
KINDS = ("blocks", "flags")


def attention_of(config: LMConfig) -> AttentionSpec:
    """How every block of a model attends."""
    (spec,) = set(config.mixers)
    assert isinstance(spec, AttentionSpec)
    return spec


def block_gates(config: LMConfig, seed: int) -> BlockGates:
    """Untrained block gates for every layer."""
    generator = torch.Generator().manual_seed(seed)
    return BlockGates.of(attention_of(config), config.n_layers, block=BLOCK, width=BLOCK_WIDTH, generator=generator)


def flag_gates(config: LMConfig, seed: int) -> AttentionGate:
    """Untrained eviction gates for every layer."""
    heads = attention_of(config).n_kv_heads
    spec = AttentionGateSpec(n_layers=config.n_layers, d_model=config.d_model, n_kv_heads=heads, width=FLAG_WIDTH)
    return AttentionGate(spec, generator=torch.Generator().manual_seed(seed))


def distil(pretrained: Pretrained, gates: BlockGates, seed: int, steps: int = BLOCK_STEPS) -> Iterator[float]:
    """Teach ``gates`` in place the block maxima of the model's own attention; yields the divergence of every step."""
    examples, generator = BlockExamples(gates), torch.Generator().manual_seed(seed)
    with torch.no_grad(), attached(pretrained.model, examples):
        for batch in crops(pretrained.tokenizer, EXAMPLES, 1000 + seed).split(BATCH):
            pretrained.model(batch)
    optimiser = torch.optim.Adam(gates.parameters(), lr=BLOCK_LR)
    for _ in range(steps):
        loss = examples.loss(torch.randperm(EXAMPLES, generator=generator)[:BATCH].tolist())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield float(loss.detach())


def tune(pretrained: Pretrained, gates: AttentionGate, seed: int, steps: int = FLAG_STEPS) -> Iterator[float]:
    """Train ``gates`` in place through the loss of the frozen model under their own evictions; yields it."""
    optimiser = torch.optim.Adam(gates.parameters(), lr=FLAG_LR)
    for step, tokens in enumerate(crops(pretrained.tokenizer, steps, 2000 + seed).split(1)):
        with Evict(gates, FLAG_BUDGETS[step % len(FLAG_BUDGETS)], EVERY).on(pretrained.model):
            loss = next_token_nll(pretrained.model, tokens).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield float(loss.detach())


def checkpoint(kind: str, seed: int) -> str:
    """Name in data/ of the trained gates of a kind ("blocks" or "flags") and seed."""
    return f"checkpoints/l07/{kind}-s{seed}.safetensors"


def save(kind: str, seed: int, gates: nn.Module, losses: list[float]) -> str:
    """Write gates in half precision, the losses of their training beside them; returns their name in data/."""
    name = checkpoint(kind, seed)
    weights: dict[str, Tensor] = {key: value.half() for key, value in gates.state_dict().items()}
    rounded = [round(loss, 4) for loss in losses]
    write_tensors(data_dir() / name, weights, {"kind": kind, "seed": seed, "losses": rounded})
    return name


def load_block_gates(config: LMConfig, seed: int = 0) -> BlockGates:
    """Trained block gates from data/. Raises DataError when the file is missing or changed."""
    gates = block_gates(config, seed)
    _fill(gates, "blocks", seed)
    return gates


def load_flag_gates(config: LMConfig, seed: int = 0) -> AttentionGate:
    """Trained eviction gates from data/. Raises DataError as `load_block_gates` does."""
    gates = flag_gates(config, seed)
    _fill(gates, "flags", seed)
    return gates


def losses(kind: str, seed: int = 0) -> list[float]:
    """What a training yielded, step by step."""
    found: list[float] = read_tensors(data.path(checkpoint(kind, seed)))[1]["losses"]
    return found


def _fill(gates: nn.Module, kind: str, seed: int) -> None:
    path = data.path(checkpoint(kind, seed))
    load_weights(gates, read_tensors(path)[0], path)
    gates.float().requires_grad_(False)
