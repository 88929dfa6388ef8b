"""Lesson 14: every patient is wrong where it must be and right where it must be, sound numbers are those of the probes,
the panel at the ends of its controls, checks on the fault that is left."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from html import escape

import numpy as np
import pytest
import torch
from gatescope.binding import held_out
from gatescope.clustered import look
from gatescope.errors import Refusal
from gatescope.intervals import t_interval
from gatescope.layers.balancing import switch_loss
from gatescope.probes import AttentionRows, Entropy, Sinks
from gatescope.scope import Scope
from gatescope.taps import RouterScores, attached
from gatescope_lessons.l02_one_gate_no_sink import lab as gated
from gatescope_lessons.l04_entropy_and_energy.heads import Kept
from gatescope_lessons.l08_routing import lab as routed
from gatescope_lessons.l14_broken_metrics import broken, checks, inputs, lab, sound
from gatescope_lessons.l14_broken_metrics.drawing import SHOWS
from gatescope_lessons.l14_broken_metrics.lab import PATIENTS
from gatescope_lessons.l14_broken_metrics.panel import clinic_panel
from scipy.special import stdtrit


@pytest.fixture(params=PATIENTS)
def one(request) -> lab.Patient:
    return PATIENTS[request.param]


def test_a_patient_is_wrong_where_it_came_in_and_right_where_the_fault_does_no_harm(one):
    wrong, right = one.numbers(one.inputs(one.start))
    assert abs(wrong - right) >= one.differ
    wrong, right = one.numbers(one.harmless())
    assert abs(wrong - right) <= one.agree


def test_the_curve_of_a_patient_is_whole_and_its_dose_matters(one):
    frame = lab.curve(one.name)
    assert frame["dose"].tolist() == sorted(one.doses)
    assert np.isfinite(frame.to_numpy()).all()
    gap = (frame["broken"] - frame["sound"]).abs()
    assert gap.max() > 2 * gap.min()


def test_the_code_on_a_card_is_the_code_that_runs(one):
    for function in (one.broken, one.sound):
        shown = lab.code(function)
        assert shown.startswith(f"def {function.__name__}(")
        assert '"""' not in shown
        scope = {"torch": torch, "math": math, "Tensor": torch.Tensor} | vars(sound)
        exec(shown, scope)
        given = one.inputs(one.start)
        assert float(scope[function.__name__](**given)) == float(function(**given))


def test_a_patient_opens_on_a_dose_it_can_have(one):
    with pytest.raises(Refusal, match="a start among"):
        replace(one, start=-77)
    with pytest.raises(Refusal, match="wanted one of row entropy"):
        lab.patient("nobody")


def _last(record, name: str) -> float:
    return float(record[name].isel(layer=-1, head=0))


@torch.no_grad()
def _read(model, probes, *args, **options):
    with Scope(model, probes=probes) as scope:
        model(*args, **options)
    return scope.record(created=False)


def _entropy() -> tuple[float, float]:
    model, (tokens, _) = gated.load("softmax"), held_out(1)
    rows = AttentionRows()
    with torch.no_grad(), attached(model, rows):
        model(tokens)
    layer = rows.layer(rows.layers[-1])
    T = len(layer.visible)
    shares = [sound.row_entropy(layer.entropy[0, i], int(layer.visible[i]), T) for i in range(1, T)]
    return float(torch.stack(shares).mean()), _last(_read(model, [Entropy()], tokens), "entropy_normalised")


def _first() -> tuple[float, float]:
    record = _read(gated.load("g1_element"), [Sinks()], held_out(inputs.SEQUENCES)[0])
    probe = _last(record, "first_attention") - record.first_attention.attrs["baseline_value"]
    return float(sound.first_attention(inputs.gated_first())), probe


def _padding() -> tuple[float, float]:
    model, (tokens, _) = gated.load("softmax"), held_out(1)
    text = torch.arange(tokens.shape[1])[None] < 20
    rows = AttentionRows()
    with torch.no_grad(), attached(model, rows):
        model(tokens, key_mask=text)
    text[:, 0] = False  # the probe counts rows from the second
    first = rows.layer(rows.layers[-1]).first[0]
    assert abs(float(broken.mean_over_tokens(first[None], text) - sound.mean_over_tokens(first[None], text))) > 0.01
    text_rows = torch.arange(tokens.shape[1])[None] < 20
    probe = _last(_read(model, [Sinks()], tokens, key_mask=text_rows), "first_attention")
    return float(sound.mean_over_tokens(first[None], text)), probe


def _sink() -> tuple[float, float]:
    model, (tokens, _) = gated.load("learned_sink"), held_out(1)
    kept = Kept(len(model.blocks) - 1)
    with torch.no_grad(), attached(model, kept):
        model(tokens)
    scores = kept.scores[0]
    scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
    sink = model.blocks[-1].attention.sink.detach()[0].double()
    return float(sound.first_attention_with_sink(scores, sink)), _last(
        _read(model, [Sinks()], tokens), "first_attention"
    )


def _undecided() -> tuple[float, float]:
    p = inputs.router_logits().softmax(-1)
    return float(sound.router_entropy(p)), float(look(routed.load("top-1")).router_entropy.squeeze())


def _balance() -> tuple[float, float]:
    given = inputs.collapsed(3)
    choice = given["choice"][..., None]
    own = [
        switch_loss(RouterScores(p[None].log(), p[None], index[None], torch.ones_like(index[None]).double(), "softmax"))
        for p, index in zip(given["p"], choice, strict=True)
    ]
    torch.testing.assert_close(sound.balance_by_layer(**given), torch.stack(own))
    return float(sound.balance(**given)), float(max(own))


def _dead() -> tuple[float, float]:
    return float(sound.dead_experts(**inputs.batches(64))), float(look(routed.load("top-1")).experts_dead.squeeze())


def _seeds() -> tuple[float, float]:
    given = inputs.seeds(1.0)
    mean, low, high = t_interval((given["b"] - given["a"]).numpy())
    error = (high - low) / 2 / stdtrit(len(given["a"]) - 1, 0.975)
    return float(sound.difference(**given)), mean / error


#: Name of a patient -> its sound number, and that of the toolkit.
ORACLES: dict[str, Callable[[], tuple[float, float]]] = {
    "row entropy": _entropy,
    "first-token attention": _first,
    "padded batch": _padding,
    "learned sink": _sink,
    "router entropy": _undecided,
    "balance over layers": _balance,
    "dead experts": _dead,
    "seeds": _seeds,
}


def test_the_sound_number_is_that_of_the_toolkit(one):
    ours, theirs = ORACLES[one.name]()
    assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_pairs_differ_beyond_chance_and_separate_means_do_not():
    wrong, right = PATIENTS["seeds"].numbers(inputs.seeds(1.0))
    assert abs(wrong) < stdtrit(8, 0.975) < stdtrit(4, 0.975) < abs(right)


def test_the_panel_answers_at_the_ends_of_every_control(one):
    panel = clinic_panel(patient=one.name, dose=min(one.doses), show="symptom")
    for dose, both in ((min(one.doses), False), (max(one.doses), True)):
        panel.apply(dose=dose, show=SHOWS[both])
        assert panel.message == ""
        assert panel.frame("figure").columns.tolist() == ["dose", "broken", *(["sound"] if both else [])]
        wrong, right = one.numbers(one.inputs(dose))
        assert panel.frame("card")["value"].tolist() == pytest.approx([wrong, right] if both else [wrong])
        shown = panel._pictures["card"]._still.value
        assert shown.count("<pre") == 1 + both
        assert (escape(one.fault) in shown) == both, "the symptom gives nothing away"


def test_another_patient_brings_its_own_doses_and_reset_brings_the_first_back():
    panel = clinic_panel(patient="padded batch", dose=8, show="symptom")
    panel.patient.value = "seeds"
    assert panel.state == {"patient": "seeds", "dose": 1.0, "show": "symptom"}
    assert panel.code == "panel.apply(patient='seeds', dose=1.0, show='symptom')"
    with pytest.raises(Refusal, match="a dose that its control can take"):
        panel.apply(dose=3.0)
    panel.reset()
    assert panel.state == {"patient": "padded batch", "dose": 8, "show": "symptom"}


def _xent(p: torch.Tensor) -> torch.Tensor:
    return -torch.xlogy(p, p).sum(-1).mean()


def _where(given: Callable[[torch.Tensor], object]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: _xent(x if given(x) else x.softmax(-1))


def _with_sink(column: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda s, z: torch.cat([s, column(s, z)], -1).softmax(-1)[1:, 0].mean()


def _raw_sink(s: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return (s.exp() / (s.exp().sum(-1, keepdim=True) + z.exp()))[1:, 0].mean()


def _shares(x: torch.Tensor) -> torch.Tensor:
    return 1 / torch.arange(1, len(x) + 1)


def _loads(choice: torch.Tensor, E: int) -> torch.Tensor:
    return torch.stack([torch.bincount(c, minlength=E) for c in choice]).double()


MISTAKES = [
    (checks.first_attention, sound.first_attention, None),
    (checks.first_attention, lambda x: x.mean(), "as it came in"),
    (checks.first_attention, lambda x: x[1:].mean(), "short sequences look like sinks"),
    (checks.first_attention, lambda x: x[1:].mean() - 1 / len(x), "right for the last alone"),
    (checks.first_attention, lambda x: (x[1:] - 1 / torch.arange(1, len(x))).mean(), "itself included"),
    (checks.first_attention, lambda x: x[1:].mean() - _shares(x).mean(), "row 0 is in the baseline"),
    (checks.first_attention, lambda x: x.mean() - _shares(x)[1:].mean(), "row 0 is in the mean"),
    (checks.first_attention, lambda x: (x - _shares(x)).mean(), "pulls the mean down"),
    (checks.first_attention, lambda x: x[1:].mean() / _shares(x)[1:].mean(), "ratio to uniform"),
    (checks.first_attention, lambda x: x[1:] - _shares(x)[1:], "take their mean"),
    (checks.mean_over_tokens, sound.mean_over_tokens, None),
    (checks.mean_over_tokens, lambda v, t: v.mean(), "as it came in"),
    (checks.mean_over_tokens, lambda v, t: (v * t).mean(), "still in the count"),
    (checks.mean_over_tokens, lambda v, t: v[~t].mean(), "True is text"),
    (checks.mean_over_tokens, lambda v, t: ((v * t).sum(1) / t.sum(1)).mean(), "counts alike"),
    (checks.mean_over_tokens, lambda v, t: (v * t).sum() / t.sum(), "NaN * 0 is NaN"),
    (checks.mean_over_tokens, lambda v, t: v[t].sum(), "this is the sum"),
    (checks.first_attention_with_sink, sound.first_attention_with_sink, None),
    (checks.first_attention_with_sink, lambda s, z: s.softmax(-1)[1:, 0].mean(), "as it came in"),
    (checks.first_attention_with_sink, _with_sink(lambda s, z: s.new_zeros(len(s), 1)), "softmax off by one"),
    (checks.first_attention_with_sink, lambda s, z: (s - z).softmax(-1)[1:, 0].mean(), "softmax does not see that"),
    (checks.first_attention_with_sink, _raw_sink, "at 1,000 exp overflows"),
    (
        checks.first_attention_with_sink,
        lambda s, z: torch.cat([z.expand(len(s), 1), s], -1).softmax(-1)[1:, 0].mean(),
        "mass of the sink itself",
    ),
    (
        checks.first_attention_with_sink,
        lambda s, z: (s.exp() / (s.exp().sum(-1, keepdim=True) + z))[1:, 0].mean(),
        "take its exp",
    ),
    (checks.router_entropy, sound.router_entropy, None),
    (checks.router_entropy, broken.router_entropy, "as it came in"),
    (checks.router_entropy, _xent, "true logits: NaN"),
    (checks.router_entropy, _where(lambda x: torch.allclose(x.sum(-1), x.new_ones(len(x)), atol=1e-3)), "by chance"),
    (checks.router_entropy, _where(lambda x: (x >= 0).all()), "both are needed"),
    (checks.router_entropy, _where(lambda x: (x >= 0).all() and (x.sum(-1) == 1).all()), "leave a tolerance"),
    (
        checks.router_entropy,
        _where(lambda x: (x >= 0).all() and torch.allclose(x.sum(-1), x.new_ones(len(x)), atol=1e-6, rtol=0)),
        "1e-3 will do",
    ),
    (
        checks.router_entropy,
        lambda x: (
            -(sound_p := x if (x >= 0).all() and ((x.sum(-1) - 1).abs() < 1e-3).all() else x.softmax(-1))
            .mul(sound_p.log())
            .sum(-1)
            .mean()
        ),
        "use torch.xlogy",
    ),
    (checks.balance_by_layer, sound.balance_by_layer, None),
    (checks.balance_by_layer, broken.balance, "pooled before"),
    (checks.balance_by_layer, sound.balance, "report them all"),
    (checks.balance_by_layer, lambda p, c: sound.balance_by_layer(p, c).mean(), "mean over layers"),
    (checks.balance_by_layer, lambda p, c: sound.balance_by_layer(p, c) / p.shape[-1], "factor E is missing"),
    (
        checks.balance_by_layer,
        lambda p, c: p.shape[-1] * (_loads(c, p.shape[-1]).sum(0) / c.numel() * p.mean(1)).sum(-1),
        "only P is by layer",
    ),
    (
        checks.balance_by_layer,
        lambda p, c: p.shape[-1] * (_loads(c, p.shape[-1]) / c.shape[1] * p.mean((0, 1))).sum(-1),
        "only f is by layer",
    ),
]


@pytest.mark.parametrize(("check", "answer", "diagnosis"), MISTAKES)
def test_checks_say_which_fault_is_left(check, answer, diagnosis, expect_diagnosis):
    expect_diagnosis(check, answer, diagnosis)


def test_every_exercise_fails_its_patient_as_it_came_in():
    for check in (checks.first_attention, checks.mean_over_tokens, checks.first_attention_with_sink):
        assert "as it came in" in check(getattr(broken, check.name)).detail
    assert all(check.hints for check in (checks.router_entropy, checks.balance_by_layer))
