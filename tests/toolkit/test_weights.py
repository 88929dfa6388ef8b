"""Weight statistics against loops over weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gatescope import records
from gatescope.errors import NonFiniteError, Refusal
from gatescope.models import AttentionSpec, LMConfig, MLPSpec, MoESpec, TinyLM
from gatescope.probes import PROBES
from gatescope.records import REQUIRED_ATTRS
from gatescope.weights import QUANTITIES, weight_record
from gatescope_kernels import nm_mask
from torch import nn


def lm(mlp=None, tie=False):
    attention = AttentionSpec(2, 1, 6)
    return TinyLM(LMConfig(19, 12, 2, attention, mlp or MLPSpec("swiglu", 16), tie_embeddings=tie))


@pytest.fixture
def model():
    model = lm()
    with torch.no_grad():
        up = model.blocks[1].mlp.up_proj.weight
        up *= nm_mask(up, 2, 4)
        model.blocks[0].attention.q_proj.weight[:5] = 0
    return model


def hoyer(values):
    n, one, two = len(values), sum(map(abs, values)), math.sqrt(sum(value * value for value in values))
    return (math.sqrt(n) - one / two) / (math.sqrt(n) - 1)


def test_every_parameter_is_counted_by_hand(model):
    record = weight_record(model)
    zeros = total = 0
    for name, weight in model.named_parameters():
        values, here = weight.flatten().tolist(), record.sel(parameter=name)
        assert here.weight_zeros == pytest.approx(sum(value == 0 for value in values) / len(values))
        assert here.weight_count == len(values)
        assert here.weight_hoyer == pytest.approx(hoyer(values))
        zeros, total = zeros + sum(value == 0 for value in values), total + len(values)
    assert record.weight_zeros_global == pytest.approx(zeros / total)
    assert zeros == 12 * 16 // 2 + 5 * 12


def test_layers_hold_their_own_parameters(model):
    record = weight_record(model)
    assert record.layer.values.tolist() == [0, 1]
    for layer, zeros in ((0, 5 * 12), (1, 12 * 16 // 2)):
        size = sum(weight.numel() for weight in model.blocks[layer].parameters())
        assert record.weight_zeros_layer.sel(layer=layer) == pytest.approx(zeros / size)
    assert record.parameter_layer.sel(parameter="embed.weight") == -1
    assert record.parameter_layer.sel(parameter="blocks.1.mlp.up_proj.weight") == 1


def test_which_pattern_holds_is_said(model):
    record = weight_record(model, patterns=((1, 4), (2, 4), (4, 8)))
    pruned = record.weight_nm.sel(parameter="blocks.1.mlp.up_proj.weight")
    np.testing.assert_array_equal(pruned, [0, 1, np.nan])
    assert (record.weight_nm.sel(parameter="blocks.0.mlp.up_proj.weight", pattern=["1:4", "2:4"]) == 0).all()
    assert (record.weight_nm.sel(parameter="blocks.0.mlp.down_proj.weight", pattern="4:8") == 0).all()
    assert record.weight_nm.sel(parameter="norm.weight").isnull().all()


@pytest.mark.parametrize("mlp", [MLPSpec("gelu", 16), MoESpec(3, 1, 8)], ids=["mlp", "experts"])
@pytest.mark.parametrize("tie", [False, True])
def test_shared_weights_count_once_and_baselines_hold(mlp, tie):
    model = lm(mlp, tie)
    record = weight_record(model)
    assert record.weight_count.sum() == sum(weight.numel() for weight in model.parameters())
    assert record.weight_zeros_global == 0
    drawn = record.weight_hoyer.where(record.weight_count > 100, drop=True)
    assert float(drawn.mean()) == pytest.approx(record.weight_hoyer.attrs["baseline_value"], abs=0.03)


def test_it_is_a_record_and_survives_a_file(model, tmp_path):
    record = weight_record(model)
    assert set(record.data_vars) == {quantity.name for quantity in QUANTITIES}
    assert all(record[name].attrs[attr] for name in record.data_vars for attr in REQUIRED_ATTRS)
    assert records.load(records.save(record, tmp_path / "w.nc")).identical(record)


def test_names_are_those_of_no_probe():
    probed = {quantity.name for probe in PROBES.values() for quantity in probe.quantities}
    assert not probed & {quantity.name for quantity in QUANTITIES}


def test_a_model_without_blocks_has_no_layers():
    record = weight_record(nn.Sequential().append(nn.Identity()).append(nn.Linear(4, 1)))
    assert record.layer.values.tolist() == [1]
    assert np.isnan(record.weight_hoyer.sel(parameter="1.bias"))
    bare = nn.Linear(4, 2)
    assert "weight_zeros_layer" not in weight_record(bare)
    with torch.no_grad():
        bare.weight.zero_()
    assert np.isnan(weight_record(bare).weight_hoyer.sel(parameter="weight"))


def test_what_cannot_be_measured_is_refused(model):
    with pytest.raises(Refusal, match="a model with parameters, got ReLU without"):
        weight_record(nn.ReLU())
    with pytest.raises(Refusal, match=r"1 <= N <= M, got \(5, 4\)"):
        weight_record(model, patterns=((5, 4),))
    with torch.no_grad():
        model.norm.weight[0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"finite norm\.weight"):
        weight_record(model)
