"""The experiment of lesson 07: what SmolLM2 loses when gates, rules or chance choose what it reads and what it keeps.

Checkpoints come from ``python -m gatescope_lessons.l07_learning_what_not_to_read.make``; the record comes from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
import xarray as xr
from gatescope import data, records
from gatescope.interventions import BestBlocks, Intervention, LatestBlocks, MeanBlocks, SparseBlocks
from gatescope.interventions.blocks import BlockScores
from gatescope.layers import BlockRule
from gatescope.models import next_token_nll
from gatescope.models.smollm2 import Pretrained, load_smollm2
from gatescope.policies import Chance, Evict, HeavyHitters, Policy, Recent
from gatescope.records import Quantity
from gatescope.taps import Event, Handler, attached
from gatescope_kernels import block_max_attention
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gatescope_lessons.l07_learning_what_not_to_read import texts, training
from gatescope_lessons.l07_learning_what_not_to_read.texts import BLOCK, LONG, NAMES, PARTS

SEEDS = training.SEEDS
#: Key blocks that a row of blocks reads, and keys that a head keeps; the claims look at the middle one.
KEEPS, BUDGETS = (5, 8, 16), (16, 32, 64)
KEEP, BUDGET = KEEPS[1], BUDGETS[1]
SCORERS = ("learned gate", "oracle", "window", "pooled means", "chance")
POLICIES = ("Attention-Gate", "StreamingLLM", "H2O", "window, no sink", "chance")
_FIXED_SCORES: dict[str, BlockScores] = {"oracle": BestBlocks(), "window": LatestBlocks(), "pooled means": MeanBlocks()}
_FIXED_POLICIES: dict[str, Policy] = {
    "StreamingLLM": Recent(4),
    "H2O": HeavyHitters(),
    "window, no sink": Recent(0),
}


def heads(pretrained: Pretrained) -> int:
    """Query heads of a layer."""
    return training.attention_of(pretrained.config).n_heads


def share_of(keep: int) -> float:
    """The share of the visible blocks that is read when every row reads ``keep``, or all where there are fewer."""
    rows = texts.LENGTH // BLOCK
    return round(sum(min(keep, row + 1) for row in range(rows)) / (rows * (rows + 1) / 2), 3)


def sparse(pretrained: Pretrained, scorer: str, keep: int, seed: int = 0) -> SparseBlocks:
    """The pass in which ``scorer`` chooses the key blocks that every row of blocks reads, the first and its own among
    them."""
    rule = BlockRule("count", keep)
    if scorer == "learned gate":
        return SparseBlocks(training.load_block_gates(pretrained.config, seed), rule, BLOCK)
    made = SparseBlocks(_FIXED_SCORES["window" if scorer == "chance" else scorer], rule, BLOCK)
    return made.control(seed) if scorer == "chance" else made


def evicting(pretrained: Pretrained, policy: str, budget: int, seed: int = 0) -> Evict:
    """The pass in which ``policy`` holds every head's cache at a budget."""
    if policy == "Attention-Gate":
        return Evict(training.load_flag_gates(pretrained.config, seed), budget, training.EVERY)
    return Evict(Chance(seed) if policy == "chance" else _FIXED_POLICIES[policy], budget, training.EVERY)


@torch.no_grad()
def losses(
    model: nn.Module, tokens: Int[Tensor, "B T"], change: Intervention | None = None
) -> Float[np.ndarray, "B parts"]:
    """Mean next-token loss of every part of every sequence, nats a token, under a change or None."""
    with nullcontext() if change is None else change.on(model):
        nll = next_token_nll(model, tokens).numpy()
    return np.stack([nll[:, part].mean(1) for part in texts.parts(tokens.shape[1] // texts.LENGTH).values()], 1)


class Captured(Handler):
    """The share of the block maxima of dense attention that lies in the blocks that each of ``changes`` would read."""

    sites = frozenset({"attention"})

    def __init__(self, changes: Mapping[str, SparseBlocks]) -> None:
        self.changes = changes
        self._found: dict[str, list[Tensor]] = {name: [] for name in changes}

    def watch(self, event: Event) -> None:
        """One layer."""
        target = block_max_attention(event.value.q, event.value.k, block=BLOCK, normalise=True, scale=event.value.scale)
        for name, change in self.changes.items():
            read = change.chosen(event.value, event.layer)
            self._found[name].append((read * target).sum(-1).mean((1, 2)))

    def shares(self) -> dict[str, Float[np.ndarray, " B"]]:
        """Means over layers, heads and rows, one a sequence."""
        return {name: torch.stack(found).mean(0).numpy() for name, found in self._found.items()}


def disagreement(kept: Mapping[int | None, Bool[Tensor, "B G T"]], latest: int) -> Float[np.ndarray, " B"]:
    """How different the old keys are that two heads keep: 1 - |a and b| / |a or b|, the mean over pairs of heads of all
    layers. The last ``latest`` keys, which every head has, do not count."""
    heads = torch.cat(list(kept.values()), 1)[..., :-latest].float()
    both = heads @ heads.mT
    size = both.diagonal(dim1=-2, dim2=-1)
    either = size[:, :, None] + size[:, None] - both
    n = heads.shape[1]
    alike = (both / either.clamp_min(1)).masked_fill(torch.eye(n, dtype=torch.bool), 0.0)
    found: np.ndarray = (1 - alike.sum((1, 2)) / (n * (n - 1))).numpy()
    return found


_SOURCE = "this project; SmolLM2-135M on a passage that returns"
_NLL = Quantity(
    "nll", ("text", "part"), "nats", "next-token loss of full attention", "-log p(next token), mean over a part",
    _SOURCE, "uniform guessing: log(vocab)",
)  # fmt: skip
_BLOCK_LOSS = Quantity(
    "block_loss", ("scorer", "seed", "text", "part", "share"), "nats", "loss above full attention",
    "mean over a part of -log p(next token) under a block mask, less that without", _SOURCE, "full attention: 0",
)  # fmt: skip
_CAPTURED = Quantity(
    "captured", ("scorer", "seed", "text", "length"), "1", "share of the block maxima in the blocks that are read",
    "mean over layers, heads, rows of sum_b mask_ab P_ab, P the row-normalised block maximum", _SOURCE,
    "all blocks: 1",
)  # fmt: skip
_CACHE_LOSS = Quantity(
    "cache_loss", ("policy", "seed", "text", "part", "keys_kept"), "nats", "loss above full attention",
    "mean over a part of -log p(next token) with a cache at a budget, less that with all keys", _SOURCE,
    "all keys: 0",
)  # fmt: skip
_DISAGREE = Quantity(
    "disagreement", ("policy", "seed", "text"), "1", "how different the old keys are that two heads keep",
    "1 - |a and b| / |a or b|, mean over pairs of heads of all layers", _SOURCE, "all heads keep the same: 0",
)  # fmt: skip


def _drawn(name: str) -> bool:
    """Whether a scorer or policy differs between seeds."""
    return name in ("learned gate", "Attention-Gate", "chance")


def _over(names: Sequence[str], seeds: Sequence[int], run: Callable[[str, int], np.ndarray]) -> np.ndarray:
    """[names, seeds, ...]; what does not depend on the seed runs once."""
    rows = []
    for name in names:
        found = [run(name, seed) for seed in (seeds if _drawn(name) else seeds[:1])]
        rows.append(np.stack(found if _drawn(name) else found * len(seeds)))
    return np.stack(rows)


def measure(
    profile: str = "full", *, names: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> xr.Dataset:
    """All scorers and policies on all texts. ``quick``: two texts, one seed, blocks and budget of the claims."""
    quick = profile == "quick"
    names, seeds = names or (NAMES[:2] if quick else NAMES), seeds or (SEEDS[:1] if quick else SEEDS)
    keeps, budgets = ((KEEP,), (BUDGET,)) if quick else (KEEPS, BUDGETS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measured(load_smollm2(), names, seeds, keeps, budgets)
    finally:
        torch.set_num_threads(threads)


MEASURE = measure


def _measured(
    pretrained: Pretrained,
    names: Sequence[str],
    seeds: Sequence[int],
    keeps: Sequence[int],
    budgets: Sequence[int],
) -> xr.Dataset:
    model = pretrained.model
    tokens = torch.cat([texts.returning(pretrained.tokenizer, name) for name in names])
    full = losses(model, tokens)
    apart = {}

    def of_blocks(scorer: str, seed: int) -> np.ndarray:
        found = [losses(model, tokens, sparse(pretrained, scorer, keep, seed)) - full for keep in keeps]
        return np.stack(found, -1)

    def of_caches(policy: str, seed: int) -> np.ndarray:
        found = []
        for budget in budgets:
            change = evicting(pretrained, policy, budget, seed)
            found.append(losses(model, tokens, change) - full)
            if budget == BUDGET:
                apart[policy, seed] = disagreement(change.kept, round(BUDGET * 0.5) + training.EVERY)
        return np.stack(found, -1)

    blocks, caches = _over(SCORERS, seeds, of_blocks), _over(POLICIES, seeds, of_caches)
    coords = {
        "text": list(names), "part": list(PARTS), "seed": list(seeds), "scorer": list(SCORERS),
        "policy": list(POLICIES), "share": [share_of(keep) for keep in keeps], "keys_kept": list(budgets),
        "length": [texts.LENGTH, 2 * texts.LENGTH],
    }  # fmt: skip
    return records.measured(
        {
            _NLL: (full, {"baseline_value": float(np.log(pretrained.config.vocab))}),
            _BLOCK_LOSS: (blocks, {"baseline_value": 0.0}),
            _CAPTURED: (_captured(pretrained, names, seeds), {"note": f"{KEEP} blocks a row are read"}),
            _CACHE_LOSS: (caches, {"baseline_value": 0.0}),
            _DISAGREE: (_over(POLICIES, seeds, lambda policy, seed: apart[policy, seed]), {}),
        },
        coords,
    )


def _captured(pretrained: Pretrained, names: Sequence[str], seeds: Sequence[int]) -> Float[np.ndarray, "N R t 2"]:
    """What is captured at the length that gates were trained at and at twice that; NaN for texts that are too short."""
    at_lengths = []
    for scale in (1, 2):
        fit = [name for name in names if scale == 1 or name in LONG]
        tokens = torch.cat([texts.returning(pretrained.tokenizer, name, scale) for name in fit])
        changes = {
            f"{scorer} {seed}": sparse(pretrained, scorer, KEEP, seed)
            for scorer in SCORERS
            for seed in (seeds if _drawn(scorer) else seeds[:1])
        }
        captured = Captured(changes)
        with torch.no_grad(), attached(pretrained.model, captured):
            pretrained.model(tokens)
        found = captured.shares()
        filled = _over(SCORERS, seeds, lambda scorer, seed, found=found: found[f"{scorer} {seed}"])  # type: ignore[misc]
        room = np.full((*filled.shape[:2], len(names)), np.nan)
        room[..., [names.index(name) for name in fit]] = filled
        at_lengths.append(room)
    return np.stack(at_lengths, -1)


def published() -> xr.Dataset:
    """The record in data/ that the claims are judged by. Raises DataError when it is missing or changed."""
    return records.load(data.path("measured/l07_learning_what_not_to_read.nc"))


def curves(record: xr.Dataset, name: str, part: str) -> xr.Dataset:
    """``block_loss`` or ``cache_loss`` of one part, the mean over seeds, its scorers or policies along ``variant``."""
    along = "scorer" if name == "block_loss" else "policy"
    own = record[name].sel(part=part).mean("seed", keep_attrs=True).rename({along: "variant"})
    note = f"the passage is read {'for the first time' if part == PARTS[0] else 'again'}; means over seeds"
    return own.assign_attrs(note=note).to_dataset()


def least(record: xr.Dataset, name: str, part: str, among: Sequence[str], **at: float) -> str:
    """Who of ``among`` loses least, the mean over texts and seeds."""
    along = "scorer" if name == "block_loss" else "policy"
    means = record[name].sel({"part": part, **at}).mean(("seed", "text")).sel({along: list(among)})
    return str(means[along].values[int(np.argmin(means.values))])


def loss_of(record: xr.Dataset, name: str, who: str, part: str | None = None) -> np.ndarray:
    """Loss above full attention at the blocks or budget of the claims, a value a text; of both parts where None."""
    along, at = ("scorer", {"share": share_of(KEEP)}) if name == "block_loss" else ("policy", {"keys_kept": BUDGET})
    own = record[name].sel({along: who, **at}).mean("seed")
    return (own.mean("part") if part is None else own.sel(part=part)).values


def _above(record: xr.Dataset, name: str, worse: str, better: str, part: str | None = None) -> np.ndarray:
    return loss_of(record, name, worse, part) - loss_of(record, name, better, part)


def _captured_over_window(record: xr.Dataset) -> np.ndarray:
    own = record.captured.sel(length=2 * texts.LENGTH).mean("seed").dropna("text", how="all")
    return (own.sel(scorer="learned gate") - own.sel(scorer="window")).values


_blocks, _caches = partial(_above, name="block_loss"), partial(_above, name="cache_loss")
#: Name in claims/*.toml -> one effect a text.
METRICS: dict[str, Callable[[xr.Dataset], np.ndarray]] = {
    "block_loss_of_window_over_gate": partial(_blocks, worse="window", better="learned gate"),
    "block_loss_of_pooled_means_over_gate": partial(_blocks, worse="pooled means", better="learned gate"),
    "block_loss_of_gate": partial(loss_of, name="block_loss", who="learned gate"),
    "captured_by_gate_over_window_at_twice_the_length": _captured_over_window,
    "cache_loss_of_streaming_over_gate": partial(_caches, worse="StreamingLLM", better="Attention-Gate"),
    "cache_loss_of_h2o_over_gate": partial(_caches, worse="H2O", better="Attention-Gate"),
    "cache_loss_of_chance_over_gate": partial(_caches, worse="chance", better="Attention-Gate"),
    "cache_loss_of_gate": partial(loss_of, name="cache_loss", who="Attention-Gate"),
    "disagreement_of_gate_heads": lambda r: r.disagreement.sel(policy="Attention-Gate").mean("seed").values,
}
