"""What holds for every probe."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from gatescope import probes
from gatescope.errors import Refusal
from gatescope.probes import PROBES, LogitLens
from gatescope.records import REQUIRED_ATTRS
from gatescope.taps import GateScores, RouterScores, attached

HEAD = torch.randn(8, 7, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
MAKERS = {"lens": lambda: LogitLens(readout, chunk=4)}
#: What depends on how sequences are spread over forward passes, by definition.
PER_PASS = {"load_violation_batch"}


def readout(hidden):
    return hidden @ HEAD.to(hidden.dtype)


def fresh(name):
    return MAKERS.get(name, PROBES[name])()


@pytest.fixture(params=list(PROBES))
def probe(request):
    return fresh(request.param)


def two_layers(call_of, scores_of, B, T, seed=0, dtype=torch.float64, sink=0.3):
    """Two layers of random tensors for all sites."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return [torch.randn(B, T, *shape, generator=draw, dtype=dtype) for _ in range(2)]

    hidden = normal(8)
    return {
        "calls": [call_of(B=B, H=6, G=2, T=T, seed=seed + layer, dtype=dtype, sink=sink) for layer in range(2)],
        "hidden": hidden,
        "gates": [GateScores(torch.rand(B, 6, T, 2, generator=draw, dtype=dtype), "sdpa") for _ in range(2)],
        "tokens": torch.randint(7, (B, T), generator=draw),
        "embed": normal(8)[0],
        "updates": list(zip(normal(8), normal(8), strict=True)),
        "mlps": [a.relu() for a in normal(10)],
        "routers": [scores_of(logits) for logits in normal(4)],
        "logits": readout(hidden[-1]),
    }


@pytest.fixture
def everything(call_of, scores_of):
    return partial(two_layers, call_of, scores_of)


def part(given, rows, length):
    """Some sequences, cut to a length."""
    return {
        "calls": [
            replace(c, q=c.q[rows, :, :length], k=c.k[rows, :, :length], v=c.v[rows, :, :length])
            for c in given["calls"]
        ],
        "hidden": [h[rows, :length] for h in given["hidden"]],
        "gates": [replace(g, scores=g.scores[rows, :, :length]) for g in given["gates"]],
        **{name: given[name][rows, :length] for name in ("tokens", "embed", "logits")},
        "updates": [tuple(u[rows, :length] for u in pair) for pair in given["updates"]],
        "mlps": [a[rows, :length] for a in given["mlps"]],
        "routers": [
            RouterScores(*(x[rows, :length] for x in (r.logits, r.probabilities, r.index, r.weight)), r.kind)
            for r in given["routers"]
        ],
    }


def same(one, other):
    assert set(one.variables) == set(other.variables)
    for name in set(one.data_vars) - PER_PASS:
        np.testing.assert_allclose(one[name].values, other[name].values, atol=1e-9, err_msg=name)


def test_folder_and_table_agree():
    files = {path.stem for path in Path(probes.__file__).parent.glob("*.py")} - {"__init__", "base"}
    assert {file for file in files if not file.startswith("_")} == set(PROBES)
    for name, probe in PROBES.items():
        assert probe.__module__ == f"gatescope.probes.{name}"
        assert probe.__name__ in probes.__all__
        assert (Path(__file__).parent / f"test_{name}.py").is_file()


def test_every_variable_says_what_it_is(probe, measure, everything):
    record = measure(probe, everything(2, 9))
    defined = {quantity.name for quantity in probe.quantities}
    assert set(record.data_vars) <= defined
    for variable in record.data_vars.values():
        assert all(variable.attrs[attr].strip() for attr in REQUIRED_ATTRS)
    rows = probe.describe()
    assert {row["variable"] for row in rows} == defined
    assert all({"probe", "formula", "unit", "source", "baseline"} <= set(row) for row in rows)


def test_passes_add_up_to_one_batch(probe, measure, everything):
    given = everything(5, 9)
    together = measure(probe, given)
    apart = measure(fresh(probe.name), part(given, slice(0, 1), 9), part(given, slice(1, 5), 9))
    same(together, apart)


@pytest.mark.parametrize("inference", [False, True])
def test_padding_is_as_if_it_were_not_there(probe, measure, everything, inference):
    given = everything(3, 9)
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[1, 4:], mask[2, 7:] = False, False
    padded = given | {"calls": [replace(c, key_mask=mask) for c in given["calls"]], "key_mask": mask}
    for h, g, c in zip(given["hidden"], given["gates"], given["calls"], strict=True):
        h[1, 4:], g.scores[1, :, 4:], c.q[1, :, 4:] = 1e6, 1e6, 3.0
    for a, pair, r in zip(given["mlps"], given["updates"], given["routers"], strict=True):
        a[1, 4:], pair[0][1, 4:], pair[1][1, 4:], r.probabilities[1, 4:], r.index[1, 4:] = 1e6, 1e6, 1e6, 1e6, 0
    given["embed"][1, 4:], given["logits"][1, 4:], given["tokens"][1, 4:] = 1e6, 1e6, 0
    apart = measure(probe, *(part(given, slice(b, b + 1), length) for b, length in ((0, 9), (1, 4), (2, 7))))
    with torch.inference_mode(inference):
        together = measure(fresh(probe.name), padded)
    same(together, apart)


def test_reset_forgets(probe, measure, everything):
    first, second = everything(2, 9), everything(3, 9, seed=7)
    measure(probe, first)
    probe.reset()
    same(measure(probe, second), measure(fresh(probe.name), second))


def test_nothing_seen_is_refused(probe):
    with pytest.raises(Refusal, match=rf"^{type(probe).__name__}: wanted at least one forward pass .*, got none; run"):
        probe.finalize()


@pytest.mark.parametrize("probe", ["sinks", "entropy", "value_drain", "gates"], indirect=True)
def test_other_shapes_are_refused(probe, player, call_of, everything):
    narrow = everything(2, 9)
    narrow["calls"] = [call_of(B=2, H=4, G=4, T=9, sink=0.3) for _ in range(2)]
    narrow["gates"] = [GateScores(g.scores[:, :4], "sdpa") for g in narrow["gates"]]
    with attached(player, probe):
        player(**everything(2, 9))
        with pytest.raises(Refusal, match="measure models, or layers, of different shapes with probes of their own"):
            player(**narrow)


def test_inference_mode_and_training_passes_mix(probe, player, everything):
    given = everything(2, 9)
    with attached(player, probe):
        with torch.inference_mode():
            player(**given)
        player(**given)
    same(probe.finalize(), probe.finalize())


def test_single_precision_passes_are_summed_in_double(probe, measure, everything):
    given = everything(2, 9, dtype=torch.float32)
    once, often = measure(probe, given), measure(fresh(probe.name), *[given] * 12)
    for name in set(once.data_vars) - {"top_value", "top_token", "top_dim"}:
        np.testing.assert_allclose(often[name].values, once[name].values, rtol=1e-12, err_msg=name)


def test_nothing_seen_keeps_a_graph(probe, player, everything):
    given = everything(2, 9)
    calls = [replace(c, q=c.q.requires_grad_()) for c in given["calls"]]
    hidden = [h.requires_grad_() for h in given["hidden"]]
    with attached(player, probe):
        player(**given | {"calls": calls, "hidden": hidden, "logits": readout(hidden[-1])})
    kept = [tensor for sums in probe.sums._sums.values() for tensor in sums.values()]
    assert kept
    assert not any(tensor.requires_grad for tensor in kept)
