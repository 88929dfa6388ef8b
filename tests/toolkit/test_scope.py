"""Scope: model + probes -> record, at inference and while training."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from gatescope import records
from gatescope.errors import NonFiniteError, Refusal, UntappableModelError
from gatescope.gates import GateSpec
from gatescope.layers import AttentionSpec, MLPSpec, MoESpec
from gatescope.models import LMConfig, TinyLM
from gatescope.probes import PROBES, ActivationSparsity, Entropy, Gates, LogitLens, Massive, Sinks, ValueDrain
from gatescope.scope import Scope
from torch import nn

G1 = GateSpec(position="sdpa")


DENSE, EXPERTS = MLPSpec(kind="gelu", hidden=24), MoESpec(experts=4, k=2, hidden=12)
#: What probes measure only when told to, or only of some models.
SOMETIMES = {"magnitude", "sink_mass", "token_expert", "token_weight"}
#: What depends on how sequences are spread over forward passes, by definition.
PER_PASS = {"load_violation_batch"}


def lm(gate=G1, sink=None, mlp=DENSE):
    attention = AttentionSpec(n_heads=4, n_kv_heads=2, head_dim=8, gate=gate, sink=sink)
    return TinyLM(LMConfig(vocab=19, d_model=16, n_layers=2, attention=attention, mlp=mlp))


@pytest.fixture(params=[DENSE, EXPERTS], ids=["dense", "experts"])
def model(request):
    return lm(mlp=request.param)


@pytest.fixture
def tokens():
    return torch.randint(19, (3, 11), generator=torch.Generator().manual_seed(0))


def all_probes(model):
    """One of every kind that the model has the sites for."""
    kinds = [kind for kind in PROBES.values() if kind.sites <= model.tap_sites]
    return [kind(model.readout) if kind is LogitLens else kind() for kind in kinds]


def test_every_probe_has_a_model():
    seen = {probe.name for mlp in (DENSE, EXPERTS) for probe in all_probes(lm(mlp=mlp))}
    assert seen == set(PROBES)


def test_one_pass_fills_every_probe(model, tokens):
    with Scope(model, all_probes(model)) as scope:
        model(tokens)
    record = scope.record(seed=3, lesson="test")
    for probe in scope.probes:
        assert {quantity.name for quantity in probe.quantities} - SOMETIMES <= set(record.data_vars)
    assert record.sizes["layer"] == 2
    attrs = record.attrs
    assert (attrs["model"], attrs["dtype"], attrs["device"], attrs["seed"]) == ("TinyLM", "float32", "cpu", 3)
    assert (attrs["n_samples"], attrs["n_tokens"], attrs["lesson"]) == (3, 33, "test")
    assert attrs["torch"] == torch.__version__
    assert LMConfig.from_dict(json.loads(attrs["model_config"])) == model.config


def test_the_record_survives_a_file(model, tokens, tmp_path):
    with Scope(model, all_probes(model)) as scope:
        model(tokens)
    record = scope.record()
    assert records.load(records.save(record, tmp_path / "r.nc")).identical(record)


def test_outputs_are_the_same_with_and_without(model, tokens):
    plain = model(tokens)
    with Scope(model, all_probes(model)):
        torch.testing.assert_close(model(tokens), plain)
    assert torch.equal(model(tokens), plain)


def test_gradients_are_the_same_with_and_without(tokens):
    def gradients(watched):
        model = lm(sink="learned")
        with Scope(model, all_probes(model) if watched else [Massive()]):
            model(tokens).square().mean().backward()
        return [parameter.grad for parameter in model.parameters()]

    for watched, plain in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(watched, plain)


def test_training_can_be_read_and_reset_inside_the_block(model, tokens):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    entropies = []
    with Scope(model, [Entropy()]) as scope:
        for _ in range(3):
            optimiser.zero_grad()
            model(tokens).square().mean().backward()
            optimiser.step()
            entropies.append(scope.record().entropy.values)
            assert scope.record().attrs["n_samples"] == 3
            scope.reset()
    assert not np.array_equal(entropies[0], entropies[2])


def test_several_passes_add_up_and_a_block_can_go_on(model, tokens):
    with Scope(model, all_probes(model)) as once:
        model(tokens)
    scope = Scope(model, all_probes(model))
    for part in (tokens[:1], tokens[1:]):
        with scope:
            model(part)
    whole, parts = once.record(), scope.record()
    for name in set(whole.data_vars) - PER_PASS:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert parts.attrs["n_tokens"] == 33


def test_padding_is_not_counted(model, tokens):
    mask = torch.ones(3, 11, dtype=torch.bool)
    mask[0, 6:] = False
    with Scope(model, all_probes(model)) as scope:
        model(tokens, mask)
    with Scope(model, all_probes(model)) as apart:
        model(tokens[:1, :6])
        model(tokens[1:])
    padded, record = scope.record(), apart.record()
    assert padded.attrs["n_tokens"] == 28
    for name in set(record.data_vars) - PER_PASS:
        np.testing.assert_allclose(padded[name], record[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_scopes_nest(model, tokens):
    with Scope(model, [Sinks()]) as outer:
        with Scope(model, [Sinks(chosen=(4,)), Entropy()]) as inner:
            model(tokens)
        model(tokens)
    assert outer.record().attrs["n_samples"] == 6
    assert inner.record().attrs["n_samples"] == 3
    assert inner.record().chosen.values.tolist() == [4]
    np.testing.assert_allclose(outer.record().first_attention, inner.record().first_attention)


def test_the_model_is_free_after_an_error(model, tokens):
    def interrupted():
        with Scope(model, all_probes(model)):
            model(tokens)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "forward" not in model.__dict__


def test_statistics_are_computed_once_for_all(model, tokens, monkeypatch):
    from gatescope.taps import core

    asked = []
    original = core.gated_attention_with_stats
    monkeypatch.setattr(
        core, "gated_attention_with_stats", lambda **call: asked.append(call["stats"]) or original(**call)
    )
    with Scope(model, all_probes(model)):
        model(tokens)
    assert asked == [("entropy", "mass", "key_mass")] * 2


def test_a_hand_written_model_without_config_or_weights():
    from gatescope.taps import tap

    class Doubler(nn.Module):
        tap_sites = frozenset({"resid"})

        def forward(self, x):
            return tap("resid", tap("resid", 2 * x, layer=0) * 2, layer=1)

    model = Doubler()
    with Scope(model, [Massive()]) as scope:
        model(torch.ones(2, 3, 4) + torch.rand(2, 3, 4))
    attrs = scope.record().attrs
    assert (attrs["n_samples"], attrs["n_tokens"]) == (2, 6)
    assert "dtype" not in attrs
    assert "model_config" not in attrs


def test_records_without_a_time_are_the_same_bytes(model, tokens, tmp_path):
    files = []
    for name in ("one", "two"):
        with Scope(model, all_probes(model)) as scope:
            model(tokens)
        files.append(records.save(scope.record(created=False), tmp_path / f"{name}.nc").read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (list, r"Scope: wanted at least one probe of sinks, .*, got none; pass probes=\[Sinks\(\)\]"),
        (lambda: iter([Sinks]), r"Scope: wanted probes \(instances of Probe\), got the class Sinks; make one"),
        (lambda: [Sinks(), Sinks()], r"of different names, got \['sinks', 'sinks'\]; use a second Scope"),
    ],
)
def test_probes_are_checked(model, make, message):
    with pytest.raises(Refusal, match=message):
        Scope(model, make())


def test_no_forward_pass_is_said(model):
    with Scope(model, [Sinks()]) as scope:
        pass
    with pytest.raises(Refusal, match=r"Scope.record: wanted at least one forward pass inside the block, got none"):
        scope.record()


@pytest.mark.parametrize(
    ("model", "probe", "message"),
    [
        (nn.Linear(2, 2), Sinks(), r"Sinks: wanted a model that emits taps .* got Linear, which has none"),
        (lm(gate=None), Gates(), r"Gates: wanted sites \['gate'\], got TinyLM, which does not show \['gate'\]"),
        (
            lm(mlp=EXPERTS),
            ActivationSparsity(),
            r"TinyLM, which does not show \['mlp'\]; leave this handler out: experts keep their hidden activations",
        ),
    ],
)
def test_a_model_without_the_taps_is_refused(model, probe, message):
    with pytest.raises(UntappableModelError, match=message), Scope(model, [probe]):
        pass


def test_entering_twice_is_refused(model):
    scope = Scope(model, [ValueDrain()])
    with scope, pytest.raises(Refusal, match="ValueDrain: wanted to be attached to TinyLM once, got a second time"):
        scope.__enter__()
    assert "forward" not in model.__dict__


def test_nan_weights_are_named(model, tokens):
    with torch.no_grad():
        model.blocks[1].attention.q_proj.weight[0, 0] = torch.nan
    with Scope(model, [Entropy()]) as scope:
        model(tokens)
    with pytest.raises(NonFiniteError, match=r"Entropy: .* NaN or infinity in layer 1; look for NaN weights"):
        scope.record()
