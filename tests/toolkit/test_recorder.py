"""The recorder in a loop of one's own: rows every so many steps, replaced on resuming; the run as if nobody looked."""

from __future__ import annotations

import sys
import tomllib
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from gatescope import records
from gatescope.errors import DataError, Refusal
from gatescope.gates import GateSpec
from gatescope.layers import AttentionSpec, MLPSpec
from gatescope.models import LMConfig, TinyLM
from gatescope.probes import PROBES, Entropy, LogitLens, Massive, Sinks
from gatescope.recorder import Recorder
from gatescope.recorder_bench import contests
from gatescope.scope import Scope
from gatescope_kernels.bench import GROUP
from torch import nn

ATTENTION = AttentionSpec(n_heads=2, n_kv_heads=1, head_dim=8, gate=GateSpec(position="sdpa"))
CONFIG = LMConfig(vocab=13, d_model=16, n_layers=2, attention=ATTENTION, mlp=MLPSpec(kind="gelu", hidden=16))


class Noisy(TinyLM):
    """A model whose training draws random numbers."""

    def forward(self, tokens, key_mask=None):
        return nn.functional.dropout(super().forward(tokens, key_mask), 0.1, self.training)


def batch(step, size=2):
    return torch.randint(13, (size, 7), generator=torch.Generator().manual_seed(step))


HELD_OUT = batch(10_000, 3)


class Loop:
    """A person's own training loop."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        self.model = Noisy(CONFIG)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)

    def run(self, recorder=None, start=1, stop=9):
        for step in range(start, stop + 1):
            self.optimizer.zero_grad()
            self.model(batch(step)).square().mean().backward()
            self.optimizer.step()
            if recorder is not None:
                recorder.step(step)
        return self


def every_probe(model):
    kinds = [kind for kind in PROBES.values() if kind.sites <= model.tap_sites]
    return [kind(model.readout) if kind is LogitLens else kind() for kind in kinds]


def test_rows_every_few_steps(tmp_path):
    loop = Loop()
    recorder = Recorder(loop.model, every_probe(loop.model), tmp_path, every=4, tokens=HELD_OUT)
    assert recorder.step(0) is not None
    loop.run(recorder)
    record = records.load(tmp_path / "record.zarr")
    xr.testing.assert_identical(record, recorder.record)
    assert record.step.values.tolist() == recorder.steps == [0, 4, 8]
    with torch.no_grad(), Scope(loop.model.eval(), [Entropy()]) as scope:
        loop.model(HELD_OUT)
    before = record.entropy.isel(step=-1).values
    assert before.shape == scope.record().entropy.shape
    assert not np.array_equal(before, record.entropy.isel(step=0).values)


def test_the_run_ends_with_the_same_bits(tmp_path):
    plain = Loop().run()
    random = torch.get_rng_state()
    watched = Loop()
    recorder = Recorder(watched.model, every_probe(watched.model), tmp_path, every=1, tokens=HELD_OUT)
    watched.run(recorder)
    assert recorder.steps == list(range(1, 10))
    assert torch.equal(torch.get_rng_state(), random)
    for ours, theirs in zip(watched.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_every_module_keeps_its_mode(tmp_path):
    model = Loop().model
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    recorder = Recorder(model, [Entropy()], tmp_path, every=1, tokens=HELD_OUT)
    recorder.step(1)
    assert [module.training for module in model.modules()] == modes

    def fails(model, tokens):
        assert not model.training
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Recorder(model, [Entropy()], tmp_path, every=1, tokens=HELD_OUT, forward=fails).step(2)
    assert [module.training for module in model.modules()] == modes
    assert recorder.steps == [1]


def test_a_resumed_loop_goes_on(tmp_path):
    def recorder(loop):
        return Recorder(loop.model, [Entropy()], tmp_path, every=2, tokens=HELD_OUT)

    loop = Loop()
    first = recorder(loop)
    loop.run(first, stop=5)
    again = recorder(loop)
    assert again.step(4) is None
    loop.run(again, start=5, stop=9)
    assert again.steps == [2, 4, 6, 8]


def test_rows_beyond_an_older_checkpoint_are_replaced(tmp_path):
    loop = Loop()
    recorder = Recorder(loop.model, [Entropy()], tmp_path, every=2, tokens=HELD_OUT)
    before = loop.run(recorder).run(recorder, start=10, stop=10) and recorder.record
    other = Loop(seed=1)
    resumed = Recorder(other.model, [Entropy()], tmp_path, every=2, tokens=HELD_OUT)
    other.run(resumed, start=5, stop=8)
    record = resumed.record
    assert record.step.values.tolist() == [2, 4, 6, 8]
    assert np.array_equal(record.entropy[:2], before.entropy[:2])
    assert not np.array_equal(record.entropy[2:], before.entropy[2:4])


def test_the_training_batch_itself_is_measured(tmp_path):
    loop = Loop()
    recorder = Recorder(loop.model, [Sinks(), Massive()], tmp_path, every=2)
    for step in range(5):
        with recorder.watching(step):
            assert loop.model(batch(step)).requires_grad
    assert recorder.steps == [0, 2, 4]
    with Scope(loop.model, [Sinks()]) as scope:
        loop.model(batch(4))
    np.testing.assert_allclose(recorder.record.key_mass.sel(step=4), scope.record().key_mass)


def test_a_block_that_raises_leaves_no_row(tmp_path):
    recorder = Recorder(Loop().model, [Entropy()], tmp_path, every=1)
    with pytest.raises(KeyboardInterrupt), recorder.watching(0):
        raise KeyboardInterrupt
    assert recorder.steps == []


def test_batches_of_other_lengths_are_refused(tmp_path):
    loop = Loop()
    recorder = Recorder(loop.model, [Sinks()], tmp_path, every=1)
    with recorder.watching(0):
        loop.model(batch(0))
    with pytest.raises(Refusal, match="batches of one length"), recorder.watching(1):
        loop.model(batch(1)[:, :5])


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda model, path: Recorder(model, [Entropy()], path, every=0), "Recorder: wanted every >= 1, got 0"),
        (lambda model, path: Recorder(model, [], path), "at least one probe"),
        (lambda model, path: Recorder(model, [Entropy()], path).step(50), "Recorder.step: wanted a held-out batch"),
        (lambda model, path: Recorder(model, [Entropy()], path).step(-1), "a step of 0 or more, got -1"),
    ],
)
def test_arguments_are_checked(tmp_path, use, message):
    with pytest.raises(Refusal, match=message):
        use(Loop().model, tmp_path)


def test_another_folder_is_refused(tmp_path):
    (tmp_path / "record.zarr").mkdir()
    with pytest.raises(DataError, match="choose another folder"):
        Recorder(Loop().model, [Entropy()], tmp_path)


def test_tensorboard_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(Refusal, match=r"wanted the package tensorboard, got .*; pip install tensorboard"):
        Recorder(Loop().model, [Entropy()], tmp_path, tensorboard=True)


def test_scalars_for_tensorboard(tmp_path, monkeypatch):
    written, made = {}, []

    class Writer:
        def __init__(self, log_dir, purge_step):
            made.append((log_dir, purge_step))

        def add_scalar(self, tag, value, step):
            written[tag, step] = value

        def flush(self):
            made.append("flushed")

    module = types.SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    model = Loop().model
    recorder = Recorder(model, [Massive(), Entropy()], tmp_path, every=3, tokens=HELD_OUT, tensorboard=True)
    record = recorder.step(3)
    assert made == [(str(tmp_path / "tensorboard"), 3), "flushed"]
    assert written["entropy/1", 3] == pytest.approx(float(record.entropy.sel(layer=1).mean()))
    assert written["m_act", 3] == pytest.approx(float(record.m_act))


@pytest.mark.parametrize(("quick", "sizes"), [(True, 1), (False, 2)])
def test_the_bench_holds_it_against_training_alone_to_the_bit(quick, sizes):
    rows = list(contests("cpu", quick))
    assert len({contest.shape for contest in rows}) == len(rows) == sizes
    for contest in rows:
        assert (contest.op, list(contest.baselines), contest.tolerance) == ("recorder", ["training alone"], 0.0)


def test_the_bench_finds_its_rows():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"][GROUP]["recorder"] == f"{contests.__module__}:{contests.__name__}"
