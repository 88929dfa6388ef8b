"""The training loop: seeds, schedule, pausing, records, and resuming to the bit whatever stopped the run."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import xarray as xr
from gatescope import checkpoints, specs, train
from gatescope.errors import DataError, NonFiniteError, Refusal
from gatescope.gates import GateSpec
from gatescope.models import AttentionSpec, Classifier, ClassifierConfig, LMConfig, MLPSpec, TinyLM
from gatescope.probes import Entropy, Gates, Sinks
from gatescope.recipes import bigram_config, bigram_train_spec
from gatescope.tasks import BigramBinding, Digits
from gatescope.train import Training, TrainSpec

TASK = BigramBinding(n_tokens=10, length=16, trigger_share=0.5)
GATE = GateSpec(position="sdpa", bias_init=2.0)
CONFIG = LMConfig(11, 16, 2, AttentionSpec(1, 1, 16, gate=GATE), MLPSpec("gelu", 32))
SPEC = TrainSpec(steps=20, batch=4, warmup=5, record_every=5, record_batch=3, checkpoint_every=6)


def training(folder: Path | None = None, spec: TrainSpec = SPEC, **changes) -> Training:
    return Training(changes.pop("model", CONFIG), changes.pop("task", TASK), spec, folder=folder, **changes)


def advance(run: Training, step: int) -> None:
    """Iterate until ``step`` steps are finished, then leave the loop as a notebook would."""
    for progress in run:
        if progress.step == step:
            break


def same_bits(one: Training, other: Training) -> bool:
    a, b = one.model.state_dict(), other.model.state_dict()
    same = all(torch.equal(a[name], b[name]) for name in a) and a.keys() == b.keys()
    return same and (one.losses, one.trigger_losses, one.step) == (other.losses, other.trigger_losses, other.step)


@pytest.fixture(scope="module")
def uninterrupted() -> Training:
    torch.set_num_threads(1)
    return training().run(progress=False)


def test_same_seed_same_bits(uninterrupted: Training) -> None:
    torch.manual_seed(99)
    assert same_bits(training().run(progress=False), uninterrupted)
    other = training(spec=bigram_train_spec(1, **{name: getattr(SPEC, name) for name in ("steps", "batch", "warmup")}))
    assert not same_bits(other.run(progress=False), uninterrupted)


def test_a_model_that_exists_is_trained_in_place(uninterrupted: Training) -> None:
    model = TinyLM(CONFIG, init_seed=SPEC.seed)
    run = training(model=model).run(progress=False)
    assert run.model is model
    assert same_bits(run, uninterrupted)


def test_leaving_the_loop_pauses(uninterrupted: Training) -> None:
    run = training()
    advance(run, 3)
    advance(run, 11)
    assert run.step == len(run.losses) == 11
    assert same_bits(run.run(progress=False), uninterrupted)
    assert list(run) == []


def test_reports_each_step() -> None:
    seen = list(training())
    assert [progress.step for progress in seen] == list(range(1, 21))
    assert [progress.lr for progress in seen] == [SPEC.lr_at(step) for step in range(20)]
    assert all(math.isfinite(progress.loss) for progress in seen)
    assert all(progress.trigger_loss > 0 for progress in seen)
    assert all(progress.record is None for progress in seen)


def test_first_loss_is_the_task_marked_mean() -> None:
    from gatescope.models import next_token_nll

    first = next(iter(training()))
    tokens, mask = TASK.batch((SPEC.seed, 0), SPEC.batch)
    nll = next_token_nll(TinyLM(CONFIG, init_seed=SPEC.seed), tokens)
    assert first.loss == pytest.approx(nll.mean().item())
    assert first.trigger_loss == pytest.approx(nll[mask[:, :-1]].mean().item())


class _Unmarked:
    """A task that tells no positions apart."""

    def batch(self, seed, size):
        return TASK.batch(seed, size)[0], None


def test_a_task_need_not_mark_positions(tmp_path: Path) -> None:
    run = training(tmp_path, task=_Unmarked()).run(progress=False)
    assert run.trigger_losses == [None] * 20
    assert training(tmp_path, task=_Unmarked()).trigger_losses == [None] * 20


@pytest.mark.parametrize(
    ("step", "share"), [(0, 0.01), (49, 0.5), (99, 1.0), (100, 1.0), (799, 1.0), (800, 1.0), (900, 0.5), (999, 0.005)]
)
def test_schedule(step: int, share: float) -> None:
    assert bigram_train_spec().lr_at(step) == pytest.approx(5e-3 * share)


def test_learns() -> None:
    """A chain with one likely successor a token is learnt in a few steps, well below the uniform loss."""
    task = BigramBinding(n_tokens=10, length=12, concentration=0.01)
    run = training(task=task, spec=TrainSpec(steps=80, batch=8, warmup=5)).run(progress=False)
    assert sum(run.losses[-5:]) / 5 < 0.7 * math.log(10) < run.losses[0]


def test_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    training().run()
    assert "20/20" in capsys.readouterr().err


# Resuming


@pytest.mark.parametrize("stop", [1, 6, 13, 20])
def test_resumes_to_the_same_bits(tmp_path: Path, uninterrupted: Training, stop: int) -> None:
    """Stopped at any step, a run goes on from its last checkpoint (every 6 steps) and ends as if never stopped."""
    advance(training(tmp_path), stop)
    resumed = training(tmp_path)
    assert resumed.step == (20 if stop == 20 else stop // 6 * 6)
    assert same_bits(resumed.run(progress=False), uninterrupted)
    assert same_bits(training(tmp_path), uninterrupted)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_sgd_resumes_to_the_same_bits(tmp_path: Path, uninterrupted: Training, momentum: float) -> None:
    spec = replace(SPEC, optimizer="sgd", lr=0.1, betas=(momentum, 0.99))
    whole = training(spec=spec).run(progress=False)
    advance(training(tmp_path, spec), 13)
    assert same_bits(training(tmp_path, spec).run(progress=False), whole)
    assert not same_bits(whole, uninterrupted)


def test_sgd_is_torch_s_own() -> None:
    """One step of momentum 0 moves every weight by lr times its gradient."""
    spec = replace(SPEC, optimizer="sgd", lr=0.1, betas=(0.0, 0.99), warmup=0, decay_share=0.0, clip=1e9)
    run = training(spec=spec)
    before = {name: value.detach().clone() for name, value in run.model.named_parameters()}
    advance(run, 1)
    for name, value in run.model.named_parameters():
        torch.testing.assert_close(value.detach(), before[name] - 0.1 * value.grad)


def test_killed_while_writing_resumes_from_the_checkpoint_before(tmp_path: Path, uninterrupted: Training) -> None:
    """A process that dies in the middle of its second write, in a way no handler can catch."""
    script = f"""
        import os
        import torch
        torch.set_num_threads(1)
        from gatescope import checkpoints
        from gatescope.models import LMConfig
        from gatescope.tasks import BigramBinding
        from gatescope.train import Training, TrainSpec

        save_file, calls = checkpoints.save_file, []

        def dies(tensors, path, metadata):
            calls.append(path)
            if len(calls) == 2:
                path.write_bytes(b"half a file")
                os._exit(9)
            save_file(tensors, path, metadata=metadata)

        checkpoints.save_file = dies
        config = LMConfig.from_dict({CONFIG.to_dict()!r})
        spec = {SPEC!r}
        Training(config, {TASK!r}, spec, folder={str(tmp_path)!r}).run(progress=False)
    """
    source = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 9, done.stderr
    resumed = training(tmp_path)
    assert resumed.step == 6
    assert same_bits(resumed.run(progress=False), uninterrupted)


def test_a_corrupt_checkpoint_says_so(tmp_path: Path) -> None:
    advance(training(tmp_path), 6)
    path = tmp_path / "training.safetensors"
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(DataError, match=r"training\.safetensors.*delete the file"):
        training(tmp_path)


def test_a_model_file_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints.save_model(tmp_path / "training.safetensors", TinyLM(CONFIG))
    with pytest.raises(DataError, match="a checkpoint of this run"):
        training(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spec": TrainSpec(steps=21, batch=4, warmup=5, record_every=5, record_batch=3, checkpoint_every=6)}, "steps"),
        ({"task": BigramBinding(n_tokens=10, length=16, trigger_share=0.5, chain_seed=1)}, "task.chain_seed"),
        ({"model": LMConfig(11, 16, 2, AttentionSpec(1, 1, 16), MLPSpec("gelu", 32))}, "config.attention.gate"),
    ],
    ids=["spec", "task", "model"],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, changes: dict, words: str) -> None:
    advance(training(tmp_path), 6)
    with pytest.raises(DataError, match=f"another .*{words}"):
        training(tmp_path, **changes)


def test_a_full_disk_leaves_the_run_usable(tmp_path: Path, monkeypatch, uninterrupted: Training) -> None:
    def full(*_, **__):
        raise OSError(28, os.strerror(28))

    run = training(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", full)
        with pytest.raises(DataError, match="No space left"):
            run.run(progress=False)
        assert run.step == 6
    run.save()
    assert training(tmp_path).step == 6
    assert same_bits(run.run(progress=False), uninterrupted)


def test_saving_needs_a_folder() -> None:
    with pytest.raises(Refusal, match="folder="):
        training().save()


# Numbers that are not finite


def test_divergence_names_the_step_and_keeps_the_weights() -> None:
    run = training()
    advance(run, 7)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    with torch.no_grad():
        run.model.blocks[1].mlp.up_proj.weight[0, 0] = math.nan
    before["blocks.1.mlp.up_proj.weight"] = run.model.blocks[1].mlp.up_proj.weight.detach().clone()
    with pytest.raises(NonFiniteError, match=r"at step 7.*first in the output of layer 1"):
        run.run(progress=False)
    after = run.model.state_dict()
    assert all(torch.equal(before[name].nan_to_num(), after[name].nan_to_num()) for name in before)
    assert run.step == 7


def test_a_gradient_that_is_not_finite_stops_before_the_update(monkeypatch) -> None:
    run = training()
    run.model.norm.weight.register_hook(lambda gradient: gradient * math.inf)
    before = run.model.norm.weight.detach().clone()
    with pytest.raises(NonFiniteError, match="at step 0, got a gradient"):
        run.run(progress=False)
    assert torch.equal(run.model.norm.weight, before)


# Records


def test_records_along_steps(tmp_path: Path) -> None:
    probes = [Sinks(), Entropy(), Gates()]
    run = training(probes=probes)
    recorded = [progress.step for progress in run if progress.record is not None]
    assert recorded == [5, 10, 15, 20]
    assert run.record.step.values.tolist() == [0, 5, 10, 15, 20]
    assert run.record.first_attention.dims == ("step", "layer", "head")
    assert run.record.attrs["seed"] == SPEC.seed
    gates = run.record.gate_mean.sel(step=0)
    assert ((gates > 0.8) & (gates < 0.95)).all(), "sigma(2) = 0.88 at the start"


def test_measuring_changes_no_weight(uninterrupted: Training) -> None:
    assert same_bits(training(probes=[Sinks()]).run(progress=False), uninterrupted)


def test_records_survive_a_stop(tmp_path: Path) -> None:
    whole = training(probes=[Sinks()]).run(progress=False).record
    advance(training(tmp_path, probes=[Sinks()]), 13)
    resumed = training(tmp_path, probes=[Sinks()])
    assert resumed.record.step.values.tolist() == [0, 5, 10]
    xr.testing.assert_identical(resumed.run(progress=False).record, whole)


def test_no_probes_no_record() -> None:
    with pytest.raises(Refusal, match="pass probes"):
        _ = training().run(progress=False).record


# Specs


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps >= 1"),
        ({"batch": 0}, "batch >= 1"),
        ({"record_every": 0}, "record_every >= 1"),
        ({"checkpoint_every": -1}, "checkpoint_every >= 1"),
        ({"warmup": -1}, "warmup >= 0"),
        ({"seed": -1}, "seed >= 0"),
        ({"lr": 0.0}, "lr > 0"),
        ({"lr": math.nan}, "lr > 0"),
        ({"clip": 0.0}, "clip > 0"),
        ({"decay_share": 1.5}, "decay_share"),
        ({"betas": (0.9,)}, "two betas"),
        ({"betas": (0.9, 1.0)}, "two betas"),
    ],
)
def test_train_spec_refuses(changes: dict, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        TrainSpec(**changes)


def test_the_settled_recipe_fits_its_task() -> None:
    run = Training(bigram_config(gate=GATE), BigramBinding(), bigram_train_spec(3, steps=2))
    run.run(progress=False)
    assert run.spec.seed == 3
    assert run.losses[0] == pytest.approx(math.log(33), abs=0.5)
    assert train.TrainSpec(seed=3, steps=2) == run.spec


def test_a_task_with_one_label_an_input_brings_its_own_loss(tmp_path: Path) -> None:
    task, spec = Digits(), TrainSpec(steps=30, batch=32, lr=2e-2, warmup=0, seed=2, checkpoint_every=10)
    assert isinstance(task, train.LabelledTask)
    assert not isinstance(TASK, train.LabelledTask)

    def run(folder: Path | None = None) -> Training:
        return Training(Classifier(ClassifierConfig(hidden=(16,)), init_seed=1), task, spec, folder=folder)

    whole, broken = run().run(progress=False), run(tmp_path)
    assert whole.losses[0] == pytest.approx(math.log(10), rel=0.3)
    assert whole.losses[-1] < 0.7 * whole.losses[0]
    assert whole.trigger_losses == [None] * 30
    advance(broken, 10)
    assert same_bits(run(tmp_path).run(progress=False), whole)


def test_scored_marks_what_is_minimised() -> None:
    """The loss of a step is that of the marked positions, and so is its gradient."""
    marked, plain = (training(spec=replace(SPEC, scored=scored)) for scored in ("marked", "all"))
    for run in (marked, plain):
        advance(run, 1)
    assert marked.losses == marked.trigger_losses == plain.trigger_losses
    assert plain.losses != marked.losses
    assert not same_bits(marked, plain)


def test_scored_refuses_a_task_without_marks() -> None:
    class Unmarked:
        def batch(self, seed, size):
            return TASK.batch(seed, size)[0], None

    with pytest.raises(Refusal, match="a task that marks positions"):
        training(task=Unmarked(), spec=replace(SPEC, scored="marked")).run(progress=False)
    with pytest.raises(Refusal, match="scored"):
        specs.from_dict(TrainSpec, {"scored": "some"})
