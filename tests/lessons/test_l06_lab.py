"""Lesson 06: shipped adapters, costs of decoding, readings at their ends, a panel at its ends, known mistakes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from gatescope import data
from gatescope.checkpoints import load_extra
from gatescope.errors import Refusal
from gatescope.surgery import to_liger
from gatescope.taps import attached
from gatescope_lessons.l06_liger import checks, costs, lab, live, runs
from gatescope_lessons.l06_liger.live import Reading
from gatescope_lessons.l06_liger.panel import DECAYS, REPAIRS, SEEN, TASKS, liger_panel
from gatescope_lessons.l06_liger.runs import VARIANTS, Run
from gatescope_lessons.papers import load_claims
from gatescope_lessons.verdicts import judge

CLAIMS = [claim for claim in load_claims() if claim.lesson == "l06_liger"]


@pytest.fixture(scope="module")
def published():
    return lab.published()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_published_scores_come_out_of_the_shipped_adapters(variant, published):
    run = Run("recall", variant, 1)
    own = published.sel(variant=variant, seed=1)
    assert runs.score(runs.repaired(run), "recall", 512) == pytest.approx(float(own.accuracy), abs=2e-3)
    converted = runs.converted(runs.teacher("recall", 1), "recall", variant)
    assert runs.score(converted, "recall", 512) == pytest.approx(float(own.accuracy_before), abs=2e-3)
    assert runs.curve(run)[0][0] == 0


@pytest.mark.parametrize("variant", ["liger", "window"])
def test_the_published_losses_do_too(variant, published):
    found = runs.score(runs.repaired(Run("bytes", variant, 0)), "bytes")
    assert found == pytest.approx(float(published.loss.sel(variant=variant, seed=0)), abs=1e-3)


def test_adapters_belong_to_the_models_that_are_shipped():
    for task in runs.TASKS:
        for variant in VARIANTS:
            for seed in runs.SEEDS:
                about = load_extra(data.path(Run(task, variant, seed).checkpoint))
                assert about["teacher"] == runs.teacher_file(task, seed)
                assert about["teacher_sha256"] == data.rows()[about["teacher"]].sha256


def test_without_a_repair_recall_is_lost_and_with_a_full_cache_it_is_whole():
    model = runs.teacher("recall", 0)
    assert runs.score(model, "recall", 64) > 0.95
    assert runs.score(to_liger(model, mix=0.0, window=None), "recall", 64) == runs.score(model, "recall", 64)
    assert runs.score(runs.converted(model, "recall", "window"), "recall", 64) < 0.4


def test_a_repair_moves_adapters_alone_and_scores_answers():
    model = runs.converted(runs.teacher("recall", 0), "recall", "liger")
    work = runs.repair(Run("recall", "liger", 5), model, steps=2).run(progress=False)
    assert work.losses == work.trigger_losses
    assert work.spec.seed == 105
    for name, weight in model.state_dict().items():
        stem, _, last = name.rpartition(".")
        adapted = stem.rsplit(".", 1)[-1] in runs.LORA.targets
        now = work.model.state_dict()[f"{stem}.base_layer.{last}" if adapted else name]
        assert torch.equal(now, weight)
    with pytest.raises(Refusal, match="one of"):
        Run("recall", "odd", 0)


def test_held_out_bytes_are_pieces_of_our_texts_behind_a_bos():
    tokens = runs.held_out()
    assert tokens.shape[1] == 64
    assert (tokens[:, 0] == 256).all()
    assert bytes(tokens[0, 1:].tolist()).decode().startswith("Once upon a time")


@pytest.mark.parametrize("form", costs.FORMS)
def test_a_state_made_up_carries_what_stepping_leaves(form):
    layer = costs.layer_of(form)
    state, x = layer.start(1), torch.zeros(1, 512)
    for length in (1, 2, 70):
        while state.position < length:
            with torch.no_grad():
                _, state = layer.step(x, state)
        made = costs.state_after(layer, length)
        assert made.keys.shape == state.keys.shape
        assert made.memory.shape == state.memory.shape
        assert costs.carried(made) == costs.carried(state)
    assert costs.seconds(form, 3, repeats=1) > 0


def test_only_the_cache_grows(published):
    assert lab.exponent(published, "cache") == pytest.approx(1)
    for form in ("liger", "recurrent", "window"):
        assert lab.exponent(published, form) == pytest.approx(0)
    assert float(published.carried.sel(form="cache", length=256)) == 2 * 512 * 256
    assert float(published.carried.sel(form="liger", length=65536)) == 8 * 64 * 64 + 2 * 512 * 63


@pytest.mark.parametrize(("mix", "window", "decay"), [(0.3, 2, "channel"), (1.0, 4, "head"), (0.0, None, "none")])
@pytest.mark.parametrize("task", runs.TASKS)
def test_influence_times_values_is_what_a_layer_reads(task, mix, window, decay):
    model = Reading(task=task, mix=mix, window=window, decay=decay).model().double()
    calls = live._Calls(model, 1)
    layer, seen = model.blocks[1].attention, []
    layer.o_proj.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    with torch.no_grad(), attached(model, calls):
        model(live.shown_tokens(task)[0])
    weights = live.influence(model.config.mixers[1], calls)
    v = calls.recurrent.v if calls.recurrent is not None else calls.softmax.v
    v = v[0].repeat_interleave(len(weights) // v.shape[1], 0)
    torch.testing.assert_close((weights @ v).transpose(0, 1).flatten(1), seen[0][0], rtol=1e-6, atol=1e-6)
    assert not weights.triu(1).any()


def test_a_reading_at_the_ends_of_its_share_is_one_without_adapters_and_the_repaired_model():
    own = Reading(task="recall", window=4)
    tokens = live.shown_tokens("recall")[0]
    with torch.no_grad():
        none, half, whole = (replace(own, share=share).model()(tokens) for share in (0.0, 0.5, 1.0))
        torch.testing.assert_close(none, replace(own, repair="none").model()(tokens))
        torch.testing.assert_close(whole, runs.repaired(Run("recall", "liger", 0))(tokens))
    assert not torch.allclose(half, none, atol=1e-3)
    assert not torch.allclose(half, whole, atol=1e-3)


def test_a_reading_says_what_the_gate_keeps():
    gated = live.read(Reading(task="bytes", window=16), layer=0, head=3)
    assert gated.kept.std() > 1e-4
    assert gated.attrs["half_life"] == pytest.approx(math.log(0.5) / math.log(float(gated.kept.mean())), rel=0.2)
    assert "".join(gated.piece.values).startswith("Once upon")
    fixed = live.read(Reading(task="bytes", decay="fixed"))
    np.testing.assert_allclose(fixed.kept, 0.5 ** (1 / 16), rtol=1e-6)
    assert fixed.attrs["half_life"] == pytest.approx(16, rel=1e-3)
    none = live.read(Reading(task="bytes", decay="none"))
    assert none.attrs["half_life"] == math.inf
    assert "kept" not in live.read(Reading(task="bytes", mix=0.0))
    assert live.read(Reading(task="recall")).piece.values[0].startswith("k")
    for layer, head in ((2, 0), (0, 4)):
        with pytest.raises(Refusal, match="layer below 2 and head below 4"):
            live.read(Reading(task="bytes"), layer=layer, head=head)


def test_gates_are_counted_for_every_key_value_head():
    record = live.gates("bytes")
    assert record.gate_mean.shape == (2, 2)
    assert ((record.gate_mean > live.SPAN[0]) & (record.gate_mean < 1)).all()


def test_the_panel_answers_at_the_ends_of_every_control():
    panel = liger_panel()
    ends = {
        "mix": (0.0, 1.0, 0.5),
        "window": (next(iter(SEEN)), "all", "4"),
        "decay": DECAYS,
        "repair": REPAIRS,
        "share": (0.0, 1.0),
        "layer": (0, 1),
        "task": reversed(list(TASKS)),
    }
    for name, value in [(name, value) for name, values in ends.items() for value in values]:
        panel.apply(**{name: value})
        assert panel.message == "", (name, value)
        assert len(panel.frame("influence_map"))
        assert len(panel.frame("token_strip")) == (
            0 if panel.state["mix"] == 0 else panel.frame("influence_map").token.max() + 1
        )
    panel.apply(task=list(TASKS)[1], head=3)
    assert panel.message == ""
    assert panel.frame("numbers").score.notna().all()


def test_the_panel_says_which_head_is_not_there_and_goes_back():
    panel = liger_panel()
    before = panel.frame("numbers")
    panel.apply(head=3)
    assert "head below 1, got layer 1, head 3" in panel.message
    panel.reset()
    assert panel.message == ""
    assert panel.frame("numbers").equals(before)
    panel.apply(mix=1.0)
    assert panel.frame("numbers").score[0] != before.score[0]


def planted(opposite: bool) -> xr.Dataset:
    """A record in which every claim of the lesson holds clearly, or its opposite does; seeds differ a little."""
    wobble = np.array([0.0, 0.01, 0.02])
    better = {"softmax": 1.0, "liger": 0.2 if opposite else 0.9}
    level = np.array([better.get(name, 0.7 if opposite else 0.3) for name in lab.NAMES])
    before = np.where(np.array(lab.NAMES) == "softmax", 1.0, 0.25 if opposite else 0.1)
    accuracy, accuracy_before = (x[:, None] * (1 - wobble) for x in (level, before))
    length = np.array(lab.LENGTHS, dtype=float)
    carried = np.stack([length ** (1.0 if opposite else 0.0)] * len(costs.FORMS))
    return xr.Dataset(
        {
            "accuracy": (("variant", "seed"), accuracy),
            "accuracy_before": (("variant", "seed"), accuracy_before),
            "loss": (("variant", "seed"), 3 - accuracy),
            "loss_before": (("variant", "seed"), 3 - accuracy_before),
            "parameters_added": ("seed", (5 if opposite else 0) + 0 * wobble),
            "carried": (("form", "length"), carried),
        },
        coords={
            "variant": list(lab.NAMES),
            "seed": [0, 1, 2],
            "form": list(costs.FORMS),
            "length": list(lab.LENGTHS),
        },
    )


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_is_shown_by_its_own_record_and_contradicted_by_the_opposite(claim):
    metric = lab.METRICS[claim.terms.metric]
    assert judge(metric(planted(opposite=False)), claim.terms).outcome == "shown"
    assert judge(metric(planted(opposite=True)), claim.terms).outcome == "contradicted"


def test_every_claim_has_its_metric_and_every_metric_its_claim():
    assert {claim.terms.metric for claim in CLAIMS} == set(lab.METRICS)


def _step(
    write=lambda k: k.softmax(-1),
    forget=lambda a: a[:, None],
    ask=lambda q: q.softmax(-1),
    halves=(0.5, 0.5),
    scale=0.5,
):
    def answer(S, q, k, v, a, keys, values):
        after = forget(a) * S + torch.outer(write(k), v)
        window = (scale * keys @ q).softmax(-1) @ values
        return after, halves[0] * (ask(q) @ after) + halves[1] * window

    return answer


def _root(make):
    return lambda k: make(k) ** (1 / 16)


MISTAKES = [
    (checks.gate_from_key, _root(torch.sigmoid), None),
    (checks.gate_from_key, torch.sigmoid, "power 1/16 is missing"),
    (checks.gate_from_key, lambda k: torch.sigmoid(k) / 16, "sixteenth root"),
    (checks.gate_from_key, lambda k: torch.sigmoid(k / 16), "outside of the sigmoid"),
    (checks.gate_from_key, lambda k: torch.nn.functional.logsigmoid(k) / 16, "take exp"),
    (checks.gate_from_key, lambda k: k.softmax(-1), "the feature map, which makes"),
    (checks.gate_from_key, _root(lambda k: torch.sigmoid(k.softmax(-1))), "feature map in front"),
    (
        checks.gate_from_key,
        _root(lambda k: torch.sigmoid(k.mean(-1, keepdim=True)).expand_as(k)),
        "pooled over the head",
    ),
    (checks.liger_step, _step(), None),
    (checks.liger_step, _step(write=lambda k: k), "key is written as it is"),
    (checks.liger_step, _step(forget=lambda a: a), "each row of S"),
    (checks.liger_step, _step(forget=lambda a: 1), "nothing was forgotten"),
    (checks.liger_step, _step(halves=(1, 1)), "halves are added whole"),
    (checks.liger_step, _step(halves=(1, 0)), "window is missing"),
    (checks.liger_step, _step(halves=(0, 1)), "recurrent half is missing"),
    (checks.liger_step, _step(ask=lambda q: q), "q as it is"),
    (checks.liger_step, _step(scale=1.0), "not divided by sqrt(K)"),
    (checks.liger_step, lambda S, q, k, v, a, keys, values: S, "wanted two things"),
    (checks.break_even, lambda H, K, w: K / 2 + w, None),
    (checks.break_even, lambda H, K, w: K + 2 * w, "values as well as keys"),
    (checks.break_even, lambda H, K, w: K + w, "left the values out"),
    (checks.break_even, lambda H, K, w: K / 2, "window is missing"),
    (checks.break_even, lambda H, K, w: w, "state is missing"),
    (checks.break_even, lambda H, K, w: H * K / 2 + w, "H cancels"),
    (checks.break_even, lambda H, K, w: 0.5 + w, "K rows and K columns"),
]


@pytest.mark.parametrize(("check", "answer", "diagnosis"), MISTAKES)
def test_checks_name_the_mistake(check, answer, diagnosis, expect_diagnosis):
    expect_diagnosis(check, answer, diagnosis)


def test_the_gain_is_checked_with_its_seeds():
    record = planted(opposite=False)
    a, b = record.accuracy, record.loss
    gain = a.sel(variant="liger") - a.sel(variant="window")
    less = b.sel(variant="window") - b.sel(variant="liger")
    assert checks.recurrent_gain((gain, less), record)
    told = {
        "turn it round": (-gain, less),
        "a lower loss is better": (gain, -less),
        "your evidence": (gain.mean("seed"), less),
        "the control is the window alone": (a.sel(variant="liger") - a.sel(variant="softmax"), less),
    }
    for words, answer in told.items():
        assert words in checks.recurrent_gain(answer, record).detail
    assert "wanted two things" in checks.recurrent_gain(gain, record).detail
    assert checks.recurrent_gain((..., ...), record).status == "not attempted"
