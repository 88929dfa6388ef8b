"""Weights on disk: what comes back is what was written, and anything else is an error that names the file."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from gatescope import checkpoints
from gatescope.errors import DataError, NonFiniteError
from gatescope.gates import GateSpec
from gatescope.models import AttentionSpec, LMConfig, MLPSpec, TinyLM
from safetensors.torch import load_file, save_file


def config_of(gate: GateSpec | None = None, sink: str | None = None, d_model: int = 16, tie: bool = False) -> LMConfig:
    return LMConfig(11, d_model, 2, AttentionSpec(2, 1, 8, gate=gate, sink=sink), MLPSpec("gelu", 32), 1e-5, tie)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "deep" / "model.safetensors"
    checkpoints.save_model(path, TinyLM(config_of(), init_seed=4), {"seed": 4, "loss": 0.1})
    return path


@pytest.mark.parametrize(
    "config",
    [
        config_of(),
        config_of(tie=True),
        config_of(sink="learned"),
        config_of(sink="off_by_one"),
        config_of(gate=GateSpec(position="sdpa", bias_init=2.0)),
        config_of(gate=GateSpec(position="key", input="none")),
    ],
    ids=["softmax", "tied", "learned", "off_by_one", "g1", "g3_no_input"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_round_trip(tmp_path, config: LMConfig, dtype: torch.dtype) -> None:
    model = TinyLM(config, init_seed=9).to(dtype)
    checkpoints.save_model(tmp_path / "m.safetensors", model, {"variant": "x"})
    again = checkpoints.load_model(tmp_path / "m.safetensors")
    assert again.config == config
    assert checkpoints.load_extra(tmp_path / "m.safetensors") == {"variant": "x"}
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]) for name in ours)


def test_is_plain_safetensors_with_the_config_as_json(path) -> None:
    assert set(load_file(path)) == set(TinyLM(config_of()).state_dict())
    assert checkpoints.read_tensors(path)[1]["config"] == json.loads(json.dumps(config_of().to_dict()))


def test_same_model_same_bytes(path, tmp_path) -> None:
    again = tmp_path / "again.safetensors"
    checkpoints.save_model(again, TinyLM(config_of(), init_seed=4), {"seed": 4, "loss": 0.1})
    assert again.read_bytes() == path.read_bytes()


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path) -> None:
    path.write_bytes(b"")


def flipped(path) -> None:
    data = bytearray(path.read_bytes())
    data[-30] ^= 1
    path.write_bytes(data)


def text(path) -> None:
    path.write_text("not a model")


def foreign(path) -> None:
    save_file({"weight": torch.ones(2)}, path)


def missing(path) -> None:
    path.unlink()


def no_config(path) -> None:
    checkpoints.write_tensors(path, TinyLM(config_of()).state_dict(), {})


def odd_config(path) -> None:
    checkpoints.write_tensors(path, TinyLM(config_of()).state_dict(), {"config": config_of().to_dict() | {"depth": 3}})


def listed_config(path) -> None:
    checkpoints.write_tensors(path, TinyLM(config_of()).state_dict(), {"config": [1, 2]})


def other_shape(path) -> None:
    checkpoints.write_tensors(path, TinyLM(config_of(d_model=24)).state_dict(), {"config": config_of().to_dict()})


def lacks_one(path) -> None:
    state = TinyLM(config_of()).state_dict()
    del state["blocks.1.attention.k_proj.weight"]
    checkpoints.write_tensors(path, state, {"config": config_of().to_dict()})


def one_too_many(path) -> None:
    state = TinyLM(config_of(sink="learned")).state_dict()
    checkpoints.write_tensors(path, state, {"config": config_of().to_dict()})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "intact safetensors file"),
        (emptied, "intact safetensors file"),
        (flipped, "differ from those that were written"),
        (text, "intact safetensors file"),
        (foreign, "without its sha256"),
        (missing, "nothing at"),
        (no_config, "the config of a TinyLM"),
        (odd_config, "also depth"),
        (listed_config, "mapping of its fields"),
        (other_shape, r"k_proj.weight \[8, 24\] instead of \[8, 16\]"),
        (lacks_one, "no blocks.1.attention.k_proj.weight"),
        (one_too_many, "an unknown blocks.0.attention.sink"),
    ],
)
def test_damage_is_a_data_error_that_names_the_file(path, damage, words: str) -> None:
    damage(path)
    with pytest.raises(DataError, match=words) as caught:
        checkpoints.load_model(path)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_not_saved(path, bad: float) -> None:
    before, model = path.read_bytes(), TinyLM(config_of())
    with torch.no_grad():
        model.blocks[1].mlp.up_proj.weight[0, 0] = bad
    with pytest.raises(NonFiniteError, match=r"finite blocks\.1\.mlp\.up_proj\.weight"):
        checkpoints.save_model(path, model)
    assert path.read_bytes() == before


def test_weights_that_do_not_fit_change_nothing() -> None:
    model, other = TinyLM(config_of()), TinyLM(config_of(), init_seed=1).state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other["norm.weight"] = torch.full_like(other["norm.weight"], float("nan"))
    with pytest.raises(DataError, match=r"NaN or infinity in norm\.weight"):
        checkpoints.load_weights(model, other, "somewhere")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_full_disk_leaves_the_old_file(path, monkeypatch) -> None:
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, os.strerror(28), str(path))

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(DataError, match="No space left"):
        checkpoints.save_model(path, TinyLM(config_of()))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_folder_in_the_way_is_a_data_error(path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_text("a file where a folder should be")
    with pytest.raises(DataError, match="atomic_write"):
        checkpoints.save_model(path, TinyLM(config_of()))
