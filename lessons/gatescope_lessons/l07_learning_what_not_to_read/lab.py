"""The experiment of lesson 07: what SmolLM2 loses when gates, rules or chance choose what it reads and what it keeps.

Checkpoints come from ``python -m gatescope_lessons.l07_learning_what_not_to_read.make``; the record comes from them.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial

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
#: Processes that measure a full record, one thread and a gigabyte each.
WORKERS = 4
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

    def __init__(self, changes: Mapping[tuple[str, int], SparseBlocks]) -> None:
        self.changes = changes
        self._found: dict[tuple[str, int], list[Tensor]] = {name: [] for name in changes}

    def watch(self, event: Event) -> None:
        """One layer."""
        target = block_max_attention(event.value.q, event.value.k, block=BLOCK, normalise=True, scale=event.value.scale)
        for name, change in self.changes.items():
            read = change.chosen(event.value, event.layer)
            self._found[name].append((read * target).sum(-1).mean((1, 2)))

    def shares(self) -> dict[tuple[str, int], Float[np.ndarray, " B"]]:
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
    "disagreement", ("policy", "seed", "text", "keys_kept"), "1", "how different the old keys are that two heads keep",
    "1 - |a and b| / |a or b|, mean over pairs of heads of all layers", _SOURCE, "all heads keep the same: 0",
)  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """What is measured: texts, seeds of the gates, blocks a row reads, keys a head keeps."""

    names: tuple[str, ...] = NAMES
    seeds: tuple[int, ...] = SEEDS
    keeps: tuple[int, ...] = KEEPS
    budgets: tuple[int, ...] = BUDGETS

    def runs(self, names: Sequence[str]) -> list[tuple[str, int]]:
        """Scorers or policies and their seeds; one will do for what is not trained, since chance draws anew in each of
        30 layers already."""
        trained = ("learned gate", "Attention-Gate")
        return [(name, seed) for name in names for seed in (self.seeds if name in trained else self.seeds[:1])]


def measure(profile: str = "full", *, grid: Grid | None = None) -> xr.Dataset:
    """All scorers and policies on all texts, in `WORKERS` processes. ``quick``: two texts, one seed, the blocks and the
    budget of the claims, in this process."""
    if profile == "quick":
        grid = grid or Grid(NAMES[:2], SEEDS[:1], (KEEP,), (BUDGET,))
        threads = torch.get_num_threads()
        try:
            return _assembled(grid, dict(map(partial(_job, grid), _jobs(grid))))
        finally:
            torch.set_num_threads(threads)
    grid = grid or Grid()
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        return _assembled(grid, dict(pool.imap_unordered(partial(_job, grid), _jobs(grid))))


MEASURE = measure
_Job = tuple[str, str, int]
_Found = dict[_Job, np.ndarray]


def _jobs(grid: Grid) -> list[_Job]:
    blocks = [("blocks", *run) for run in grid.runs(SCORERS)]
    return [("captured", "", 0), *blocks, *(("caches", *run) for run in grid.runs(POLICIES)), ("full", "", 0)]


def _job(grid: Grid, job: _Job) -> tuple[_Job, np.ndarray]:
    """One row of the record: losses [text, part, setting], of caches the disagreement of heads in a further part."""
    torch.set_num_threads(1)
    pretrained, (kind, who, seed) = _model(), job
    if kind == "captured":
        return job, _captured(pretrained, grid)
    tokens = torch.cat([texts.returning(pretrained.tokenizer, name) for name in grid.names])
    if kind == "full":
        return job, losses(pretrained.model, tokens)
    if kind == "blocks":
        changes = (sparse(pretrained, who, keep, seed) for keep in grid.keeps)
        return job, np.stack([losses(pretrained.model, tokens, change) for change in changes], -1)
    rows = []
    for budget in grid.budgets:
        change = evicting(pretrained, who, budget, seed)
        loss = losses(pretrained.model, tokens, change)
        apart = disagreement(change.kept, round(budget * 0.5) + training.EVERY)
        rows.append(np.concatenate([loss, apart[:, None]], 1))
    return job, np.stack(rows, -1)


_model = cache(load_smollm2)


def _assembled(grid: Grid, found: _Found) -> xr.Dataset:
    full = found["full", "", 0]
    blocks = _rows(grid, found, "blocks", SCORERS) - full[..., None]
    caches = _rows(grid, found, "caches", POLICIES)
    coords = {
        "text": list(grid.names), "part": list(PARTS), "seed": list(grid.seeds), "scorer": list(SCORERS),
        "policy": list(POLICIES), "share": [share_of(keep) for keep in grid.keeps], "keys_kept": list(grid.budgets),
        "length": [texts.LENGTH, 2 * texts.LENGTH],
    }  # fmt: skip
    return records.measured(
        {
            _NLL: (full, {}),
            _BLOCK_LOSS: (blocks, {"baseline_value": 0.0}),
            _CAPTURED: (found["captured", "", 0], {"note": f"{KEEP} blocks a row are read"}),
            _CACHE_LOSS: (caches[..., :-1, :] - full[..., None], {"baseline_value": 0.0}),
            _DISAGREE: (caches[..., -1, :], {}),
        },
        coords,
    )


def _rows(grid: Grid, found: _Found, kind: str, names: Sequence[str]) -> np.ndarray:
    """[names, seeds, ...]; what was measured once stands at every seed."""
    runs = grid.runs(names)
    return np.stack(
        [
            np.stack([found[kind, name, seed if (name, seed) in runs else grid.seeds[0]] for seed in grid.seeds])
            for name in names
        ]
    )


def _captured(pretrained: Pretrained, grid: Grid) -> Float[np.ndarray, "scorers seeds texts 2"]:
    """What is captured at the length that gates were trained at and at twice that; NaN for texts that are too short."""
    at_lengths = []
    for scale in (1, 2):
        fit = [name for name in grid.names if scale == 1 or name in LONG]
        tokens = torch.cat([texts.returning(pretrained.tokenizer, name, scale) for name in fit])
        runs = grid.runs(SCORERS)
        captured = Captured({run: sparse(pretrained, run[0], KEEP, run[1]) for run in runs})
        with torch.no_grad(), attached(pretrained.model, captured):
            pretrained.model(tokens)
        filled = _rows(
            grid, {("captured", *run): share for run, share in captured.shares().items()}, "captured", SCORERS
        )
        room = np.full((*filled.shape[:2], len(grid.names)), np.nan)
        room[..., [grid.names.index(name) for name in fit]] = filled
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


def least(record: xr.Dataset, name: str, part: str, among: Sequence[str], **at: float | int) -> str:
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
    "disagreement_of_gate_heads": lambda r: (
        r.disagreement.sel(policy="Attention-Gate", keys_kept=BUDGET).mean("seed").values
    ),
}
