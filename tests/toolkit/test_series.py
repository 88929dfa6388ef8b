"""A series of checkpoints is the records of its models, one model at a time, and goes on where it stopped."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import xarray as xr
from gatescope import records
from gatescope.checkpoints import load_model, save_model
from gatescope.errors import DataError, Refusal
from gatescope.layers import AttentionSpec, MLPSpec
from gatescope.models import LMConfig, TinyLM
from gatescope.probes import Entropy, Sinks
from gatescope.scope import Scope
from gatescope.series import measure_series

STEPS = (0, 50, 100)
TOKENS = torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(0))


def model(seed: int) -> TinyLM:
    return TinyLM(LMConfig(11, 16, 2, AttentionSpec(2, 1, 8), MLPSpec("gelu", 24)), init_seed=seed).eval()


def probes(_: object) -> list:
    return [Sinks(), Entropy()]


@pytest.fixture
def files(tmp_path):
    made = {step: tmp_path / f"{step}.safetensors" for step in STEPS}
    for step, file in made.items():
        save_model(file, model(step))
    return made


def alone(step: int) -> xr.Dataset:
    built = model(step)
    with torch.no_grad(), Scope(built, probes(built)) as scope:
        built(TOKENS)
    return scope.record(created=False)


def test_it_is_the_records_of_the_models_along_step(files):
    found = measure_series(dict(reversed(files.items())), probes, TOKENS, progress=False)
    assert found.step.values.tolist() == list(STEPS)
    for step in STEPS:
        xr.testing.assert_allclose(found.entropy.sel(step=step, drop=True), alone(step).entropy)
    assert len({float(found.entropy.sel(step=step).mean()) for step in STEPS}) == 3


def test_one_model_at_a_time(files):
    alive: list[weakref.ref] = []

    def load(file):
        gc.collect()
        assert [ref for ref in alive if ref() is not None] == []
        alive.append(weakref.ref(loaded := load_model(file)))
        return loaded

    measure_series(files, probes, TOKENS, load=load, progress=False)
    assert len(alive) == 3


def test_it_goes_on_where_it_stopped_and_names_the_corrupt_file(files, tmp_path):
    good = files[100].read_bytes()
    files[100].write_bytes(good[:200])
    path = tmp_path / "series.zarr"
    with pytest.raises(DataError, match=r"100\.safetensors"):
        measure_series(files, probes, TOKENS, path=path, progress=False)
    assert records.Appended(path).steps == [0, 50]
    files[100].write_bytes(good)
    opened = []

    def load(file):
        opened.append(file)
        return load_model(file)

    found = measure_series(files, probes, TOKENS, path=path, load=load, progress=False)
    assert opened == [files[100]]
    whole = measure_series(files, probes, TOKENS, progress=False)
    xr.testing.assert_allclose(found[["entropy", "sink_score"]], whole[["entropy", "sink_score"]])
    with pytest.raises(Refusal, match="begun with"):
        measure_series(files, probes, TOKENS.flip(1), path=path, progress=False)


def test_models_may_be_made_by_functions():
    found = measure_series({step: lambda step=step: model(step) for step in STEPS}, probes, TOKENS, progress=False)
    xr.testing.assert_allclose(found.entropy.sel(step=50, drop=True), alone(50).entropy)


def test_no_checkpoints_are_refused():
    with pytest.raises(Refusal, match="at least one checkpoint"):
        measure_series({}, probes, TOKENS)
