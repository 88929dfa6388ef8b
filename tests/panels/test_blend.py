"""gate_blend: from no gate to the learned one."""

import numpy as np
import pytest
import torch
import xarray as xr
from gatescope import panels
from gatescope.errors import Refusal


def fake(name, amount):
    """Attention to the first token falls from .8 by .6 * amount; the gate from 1 by .7 * amount."""
    fake.calls += 1
    sink, gate = 0.8 - 0.6 * amount, 1 - 0.7 * amount
    histogram = np.zeros((1, 1, 10))
    histogram[0, 0, min(int(gate * 10), 9)] = 1
    return xr.Dataset(
        {
            "first_attention": (("layer", "head"), [[sink]]),
            "gate_mean": (("layer", "gate_head"), [[gate]]),
            "gate_histogram": (("layer", "gate_head", "bin"), histogram),
            "nll": ((), 2.0 - amount),
        },
        coords={"bin": np.arange(10) / 10 + 0.05},
    )


@pytest.fixture
def panel():
    fake.calls = 0
    return panels.gate_blend({"<b>g1</b>": None, "other": None}, None, measure=fake)


def row(panel, name="now"):
    return panel.frame().set_index("gate").loc[name]


def test_opening_the_gate_brings_the_sink_back(panel):
    seen = []
    for amount in (1.0, 0.5, 0.0):
        panel.amount.value = amount
        seen.append(panel.frame("sink_heatmap")["first_attention"].item())
        assert row(panel)["gate_mean"] == pytest.approx(1 - 0.7 * amount)
        assert row(panel)["nll"] == pytest.approx(2 - amount)
    assert seen == pytest.approx([0.2, 0.5, 0.8])
    histogram = panel.frame("gate_histogram").set_index("bin")["gate_histogram"]
    assert histogram.idxmax() == pytest.approx(0.95)


def test_both_ends_stand_beside_the_present(panel):
    panel.amount.value = 0.5
    assert row(panel, "gate off")["first_attention"] == pytest.approx(0.8)
    assert row(panel, "as learned")["first_attention"] == pytest.approx(0.2)


def test_a_move_measures_once(panel):
    before = fake.calls
    panel.amount.value = 0.3
    assert fake.calls == before + 1


def test_model_names_are_escaped(panel):
    assert "<b>g1" not in panel._pictures["numbers"].widget.children[1].value


def test_reset_and_code(panel):
    panel.apply(model="other", amount=0.25)
    other = panels.gate_blend({"<b>g1</b>": None, "other": None}, None, measure=fake)
    eval(panel.code, {"panel": other})
    assert other.frame().equals(panel.frame())
    panel.reset()
    assert panel.state == {"model": "<b>g1</b>", "amount": 1.0}


def test_no_model_is_refused():
    with pytest.raises(Refusal, match="gated model"):
        panels.gate_blend({}, None)


def test_the_real_thing(gated, pretrained):
    tokens = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(0))
    panel = panels.gate_blend({"gated": gated, "plain": pretrained.model}, tokens)
    assert panel.message == ""
    learned = row(panel)
    assert learned["gate_mean"] == pytest.approx(torch.sigmoid(torch.tensor(-2.0)).item(), abs=0.1)
    panel.amount.value = 0.5
    assert row(panel)["gate_mean"] == pytest.approx((1 + learned["gate_mean"]) / 2, abs=1e-5)
    assert row(panel)["nll"] != learned["nll"]
    panel.amount.value = 0.0
    assert row(panel)["gate_mean"] == 1
    panel.model.value = "plain"
    assert "gate" in panel.message
    panel.model.value = "gated"
    assert panel.message == ""
