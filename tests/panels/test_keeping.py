"""A live run outlives its kernel, is told apart from others, and neither a full disk nor a second notebook harms it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gatescope import panels
from gatescope.gates import GateSpec
from gatescope.models import AttentionSpec, LMConfig, MLPSpec
from gatescope.panels import keeping
from gatescope.probes import Gates, Sinks
from gatescope.tasks import RandomTokens
from gatescope.train import Training, TrainSpec

ATTENTION = AttentionSpec(n_heads=2, n_kv_heads=1, head_dim=4, gate=GateSpec(position="sdpa", bias_init=-2.0))
CONFIG = LMConfig(vocab=16, d_model=8, n_layers=1, attention=ATTENTION, mlp=MLPSpec("gelu", 8))


def make(seed=0, **changes):
    spec = TrainSpec(steps=12, batch=4, warmup=2, record_every=4, record_batch=2, seed=seed, **changes)
    return Training(CONFIG, RandomTokens(vocab=16, length=6), spec, probes=[Sinks(), Gates()])


def a_panel(make=make):
    return panels.train_live(make, interval=60.0)


@pytest.fixture(autouse=True)
def live(tmp_path, monkeypatch) -> Iterator[Path]:
    """Where runs are kept."""
    monkeypatch.setenv("GATESCOPE_LIVE", str(tmp_path / "live"))
    yield tmp_path / "live"
    restart()


def restart():
    """Let go of every run, as a kernel does that is ended."""
    for keeper in list(keeping.Keeper._holders.values()):
        keeper._release()


def test_a_restarted_kernel_goes_on_and_ends_as_if_it_had_not_been():
    first = a_panel()
    first.run_blocking(5)
    assert "after a restart" in first.kept.value
    restart()
    second = a_panel()
    second.run_blocking(4)
    assert "Resumed at step 5" in second.kept.value
    assert second.frame()["step"].tolist() == list(range(1, 10))
    assert second.frame()["loss"].tolist()[:5] == first.frame()["loss"].tolist()
    assert second.frame("metric")["step"].tolist() == [4, 8]
    restart()
    third = a_panel()
    third.run_blocking()
    assert "finished at step 12" in third.status.value
    whole = make().run(progress=False)
    assert third.frame()["loss"].tolist() == pytest.approx(whole.losses, rel=1e-6)
    restart()
    over = a_panel()
    over.run_blocking(5)
    assert "finished at step 12" in over.status.value
    assert over.start_button.disabled


def test_reset_begins_anew_for_good():
    first = a_panel()
    first.run_blocking(5)
    first.reset_button.click()
    assert first.kept.value == ""
    first.run_blocking(2)
    assert len(first.frame()) == 2
    restart()
    again = a_panel()
    again.run_blocking(1)
    assert len(again.frame()) == 3


@pytest.mark.parametrize("changes", [{"seed": 1}, {"lr": 1e-3}])
def test_another_run_is_another_run(changes):
    a_panel().run_blocking(3)
    other = a_panel(lambda: make(**changes))
    other.run_blocking(1)
    assert len(other.frame()) == 1


def test_a_cell_run_again_takes_the_run_over():
    older = a_panel()
    older.run_blocking(3)
    newer = a_panel()
    newer.run_blocking(2)
    assert len(newer.frame()) == 5
    older.run_blocking(1)
    assert "newer panel" in older.kept.value
    newer.run_blocking(1)
    restart()
    last = a_panel()
    last.run_blocking(1)
    assert len(last.frame()) == 7


def test_a_run_open_in_another_process_is_left_alone(live):
    a_panel().run_blocking(3)
    restart()
    (folder,) = live.iterdir()
    code = f"import fcntl, time\nfile = open({str(folder / 'lock')!r}, 'w')\nfcntl.flock(file, fcntl.LOCK_EX)\n"
    held = subprocess.Popen(
        [sys.executable, "-c", code + "print(1, flush=True)\ntime.sleep(60)"], stdout=subprocess.PIPE
    )
    try:
        assert held.stdout.readline()
        before = (folder / "training.safetensors").read_bytes()
        panel = a_panel()
        panel.run_blocking(2)
        assert "Another notebook" in panel.kept.value
        assert len(panel.frame()) == 2
        assert (folder / "training.safetensors").read_bytes() == before
    finally:
        held.kill()
        held.communicate()
    third = a_panel()
    third.run_blocking(1)
    assert len(third.frame()) == 4, "the lock of a killed kernel is gone with it"


@pytest.mark.parametrize("name", ["training.safetensors", "records/0000004.nc"])
def test_what_is_damaged_is_told_and_begun_anew(live, name):
    a_panel().run_blocking(5)
    restart()
    (path,) = live.glob(f"*/{name}")
    path.write_bytes(path.read_bytes()[:-40])
    panel = a_panel()
    panel.run_blocking(3)
    assert panel.frame()["loss"].tolist() == pytest.approx(make_losses(3), rel=1e-6)
    assert "cannot be read" in panel.kept.value
    restart()
    again = a_panel()
    again.run_blocking(1)
    assert len(again.frame()) == 4


def make_losses(steps):
    training = make()
    return [progress.loss for progress, _ in zip(training, range(steps), strict=False)]


def test_a_full_disk_is_told_and_the_run_goes_on(live, monkeypatch):
    first = a_panel()
    first.run_blocking(3)
    (checkpoint,) = live.glob("*/training.safetensors")
    before = checkpoint.read_bytes()
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", _no_space)
        first.run_blocking(3)
    assert "No space left" in first.kept.value
    assert "free space on the disk of" in first.kept.value
    assert first.message == ""
    assert len(first.frame()) == 6
    assert checkpoint.read_bytes() == before
    first.run_blocking(1)
    assert "after a restart" in first.kept.value
    restart()
    second = a_panel()
    second.run_blocking(1)
    assert len(second.frame()) == 8


def _no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_folder_that_cannot_be_made_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GATESCOPE_LIVE", str(tmp_path / "file"))
    panel = a_panel()
    panel.run_blocking(2)
    assert "not kept" in panel.kept.value
    assert len(panel.frame()) == 2


def test_a_headless_run_keeps_nothing(live, monkeypatch):
    monkeypatch.setenv("GATESCOPE_LIVE", "")
    panel = a_panel()
    panel.run_blocking(2)
    assert not live.exists()
    assert "begins this run anew" in panel.kept.value
