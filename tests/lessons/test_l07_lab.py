"""Lesson 07: sequences that return, gates from data/, metrics on planted records, panels at their ends, checks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from gatescope.errors import Refusal
from gatescope.models.smollm2 import load_smollm2
from gatescope_lessons.l07_learning_what_not_to_read import checks, lab, texts, training
from gatescope_lessons.l07_learning_what_not_to_read.live import Reading
from gatescope_lessons.l07_learning_what_not_to_read.panel import ALL_LAYERS, blocks_panel, cache_panel
from gatescope_lessons.papers import load_claims
from gatescope_lessons.verdicts import judge

CLAIMS = [claim for claim in load_claims() if claim.lesson == "l07_learning_what_not_to_read"]


@pytest.fixture(scope="module")
def pretrained():
    return load_smollm2()


def test_a_sequence_is_a_passage_something_else_and_the_passage_again(pretrained):
    for name in texts.NAMES:
        tokens = texts.returning(pretrained.tokenizer, name)[0]
        assert len(tokens) == texts.LENGTH == 160
        assert torch.equal(tokens[: texts.PASSAGE], tokens[-texts.PASSAGE :])
    drawn = texts.crops(pretrained.tokenizer, 3, 5)
    assert torch.equal(drawn[:, : texts.PASSAGE], drawn[:, -texts.PASSAGE :])
    assert torch.equal(drawn, texts.crops(pretrained.tokenizer, 3, 5))
    assert not torch.equal(drawn, texts.crops(pretrained.tokenizer, 3, 6))
    assert texts.returning(pretrained.tokenizer, texts.LONG[0], 2).shape == (1, 320)
    with pytest.raises(Refusal, match="returning: wanted 560 and 480 tokens"):
        texts.returning(pretrained.tokenizer, "story", 10)


def test_parts_are_told_apart_where_the_passage_returns():
    first, again = texts.parts().values()
    # Loss t is that of token t + 1.
    assert (first.start + 1, first.stop + 1) == (32, texts.PASSAGE + texts.BETWEEN)
    assert (again.start + 1, again.stop + 1) == (texts.PASSAGE + texts.BETWEEN + 4, texts.LENGTH)


def test_the_share_of_blocks_is_counted_as_masks_have_it():
    rows = texts.LENGTH // texts.BLOCK
    assert lab.share_of(rows) == 1
    assert lab.share_of(8) == pytest.approx((sum(range(1, 9)) + 8 * (rows - 8)) / (rows * (rows + 1) / 2), abs=5e-4)


def test_heads_that_keep_the_same_agree_and_others_do_not():
    same = torch.zeros(1, 2, 12, dtype=torch.bool)
    same[..., [0, 3]] = True
    same[..., -4:] = True
    assert lab.disagreement({0: same, 1: same}, 4) == pytest.approx(0)
    other = same.clone()
    other[:, 1, [0, 3]], other[:, 1, [1, 2]] = False, True
    assert lab.disagreement({0: other}, 4) == pytest.approx(1)
    assert lab.disagreement({0: same, 1: other}, 4) == pytest.approx(0.5)


@pytest.mark.parametrize("kind", training.KINDS)
def test_gates_come_back_from_their_file_as_they_were(kind, pretrained, tmp_path, monkeypatch):
    make = {"blocks": training.block_gates, "flags": training.flag_gates}[kind]
    load = {"blocks": training.load_block_gates, "flags": training.load_flag_gates}[kind]
    gates = make(pretrained.config, 7)
    monkeypatch.setattr(training, "data_dir", lambda: tmp_path)
    monkeypatch.setattr(training.data, "path", lambda name: tmp_path / name)
    training.save(kind, 7, gates, [2.0, 1.0])
    again = load(pretrained.config, 7)
    for name, weights in gates.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weights, rtol=1e-3, atol=1e-3)
    assert training.losses(kind, 7) == [2.0, 1.0]
    assert not any(weight.requires_grad for weight in again.parameters())


def test_training_moves_the_gates_and_nothing_else(pretrained, monkeypatch):
    monkeypatch.setattr(training, "EXAMPLES", 2)
    monkeypatch.setattr(training, "BATCH", 2)
    before = pretrained.model.embed.weight.sum()
    blocks, flags = training.block_gates(pretrained.config, 7), training.flag_gates(pretrained.config, 7)
    found = list(training.distil(pretrained, blocks, 7, steps=4))
    assert found[-1] < found[0]
    old = flags.gates[3].out.weight.detach().clone()
    (loss,) = training.tune(pretrained, flags, 7, steps=1)
    assert np.isfinite(loss)
    assert not torch.equal(flags.gates[3].out.weight, old)
    assert pretrained.model.embed.weight.sum() == before


def test_shipped_gates_have_the_numbers_of_the_record(pretrained):
    reading, record = Reading(pretrained, "prose"), lab.published().sel(text="prose")
    np.testing.assert_allclose(reading.full, record.nll, atol=2e-3)
    masked, cached = reading.masked("learned gate", lab.KEEP), reading.cached("Attention-Gate", lab.BUDGET)
    blocks = record.block_loss.sel(scorer="learned gate", seed=0, share=lab.share_of(lab.KEEP))
    caches = record.cache_loss.sel(policy="Attention-Gate", seed=0, keys_kept=lab.BUDGET)
    np.testing.assert_allclose(masked.loss - reading.full, blocks, atol=0.02)
    np.testing.assert_allclose(cached.loss - reading.full, caches, atol=0.02)
    assert masked.share == pytest.approx(lab.share_of(lab.KEEP), abs=1e-3)


def test_a_quick_measurement_has_every_variable(monkeypatch):
    monkeypatch.setattr(lab, "SCORERS", ("oracle", "chance"))
    monkeypatch.setattr(lab, "POLICIES", ("H2O", "chance"))
    record = lab.measure("quick")
    assert record.text.values.tolist() == ["story", "prose"]
    assert (record.block_loss.sel(scorer="oracle") < record.block_loss.sel(scorer="chance")).all()
    assert record.captured.notnull().all()
    assert (record.captured.sel(scorer="oracle") > record.captured.sel(scorer="chance")).all()


def test_every_metric_of_the_record_is_finite():
    record = lab.published()
    assert record.text.values.tolist() == list(texts.NAMES)
    assert record.seed.values.tolist() == list(lab.SEEDS)
    for name, metric in lab.METRICS.items():
        wanted = len(texts.LONG) if "twice" in name else len(texts.NAMES)
        assert metric(record).shape == (wanted,), name
        assert np.isfinite(metric(record)).all(), name


def test_curves_and_answers_come_from_the_record():
    record = planted(opposite=False)
    own = lab.curves(record, "block_loss", "again")
    assert own.block_loss.dims == ("variant", "text", "share")
    assert "again" in own.block_loss.attrs["note"]
    at = {"share": lab.share_of(lab.KEEP)}
    assert lab.least(record, "block_loss", "again", ("window", "learned gate"), **at) == "learned gate"
    assert lab.least(record, "cache_loss", "again", ("H2O", "StreamingLLM"), keys_kept=lab.BUDGET) == "H2O"


def planted(opposite: bool) -> xr.Dataset:
    """A record in which every claim of the lesson holds clearly, or its opposite does; texts differ a little."""
    sign, wobble = (-1.0 if opposite else 1.0), 1 + 0.01 * np.arange(len(texts.NAMES))
    blocks = {"learned gate": -0.05 if not opposite else 0.5, "oracle": 0.0, "chance": 1.0}
    blocks |= dict.fromkeys(("window", "pooled means"), 0.3)
    caches = {"Attention-Gate": -0.2 * sign, "window, no sink": 2.0}
    caches |= {"StreamingLLM": 0.4 * sign, "H2O": 0.3 * sign, "chance": 0.5 * sign}
    if opposite:
        caches |= {"StreamingLLM": 0.1, "H2O": 0.05, "chance": 0.0}
    captured = {"learned gate": 0.5 + 0.1 * sign} | dict.fromkeys(lab.SCORERS[1:], 0.5)

    def over(values: dict[str, float], names: tuple[str, ...], *sizes: int) -> np.ndarray:
        own = np.array([values[name] for name in names])[:, None] * wobble
        return np.broadcast_to(own[:, None, :, *(None for _ in sizes)], (len(names), 3, len(wobble), *sizes))

    dims = ("seed", "text")
    return xr.Dataset(
        {
            "block_loss": (("scorer", *dims, "part", "share"), over(blocks, lab.SCORERS, 2, 3)),
            "cache_loss": (("policy", *dims, "part", "keys_kept"), over(caches, lab.POLICIES, 2, 3)),
            "captured": (("scorer", *dims, "length"), over(captured, lab.SCORERS, 2)),
            "disagreement": (
                ("policy", *dims, "keys_kept"),
                over(dict.fromkeys(lab.POLICIES, 0.6 * sign), lab.POLICIES, 3),
            ),
        },
        coords={
            "scorer": list(lab.SCORERS),
            "policy": list(lab.POLICIES),
            "seed": range(3),
            "text": list(texts.NAMES),
            "part": list(texts.PARTS),
            "share": [lab.share_of(keep) for keep in lab.KEEPS],
            "keys_kept": list(lab.BUDGETS),
            "length": [texts.LENGTH, 2 * texts.LENGTH],
        },
    )


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_is_shown_by_its_own_record_and_contradicted_by_the_opposite(claim):
    metric = lab.METRICS[claim.terms.metric]
    assert judge(metric(planted(opposite=False)), claim.terms).outcome == "shown"
    assert judge(metric(planted(opposite=True)), claim.terms).outcome == "contradicted"


def test_every_claim_has_its_metric_and_every_metric_its_claim():
    assert {claim.terms.metric for claim in CLAIMS} == set(lab.METRICS)


def test_the_cache_panel_answers_at_the_ends_of_every_control(pretrained):
    panel = cache_panel(pretrained)
    opened = panel.frame("numbers")
    ends = {"budget": (8, texts.LENGTH), "policy": lab.POLICIES, "layer": (ALL_LAYERS, 0, 29), "text": ("dialogue",)}
    seen = {}
    for name, value in [(name, value) for name, values in ends.items() for value in values]:
        panel.apply(**{name: value})
        assert panel.message == "", (name, value)
        seen[value] = panel.frame("numbers")
        kept = panel.frame("token_strip")["kept"]
        assert kept.between(0, 1).all()
        assert len(kept) == texts.LENGTH
        panel.reset()
    assert seen[texts.LENGTH]["lost"].abs().max() < 1e-4
    assert seen["window, no sink"]["lost"].min() > seen["StreamingLLM"]["lost"].min()
    assert (seen[8]["lost"] > opened["lost"]).all()
    panel.apply(layer=4)
    assert panel.frame("numbers").equals(opened)
    panel.reset()
    assert panel.frame("numbers").equals(opened)


def test_the_block_panel_answers_at_the_ends_of_every_control(pretrained):
    panel = blocks_panel(pretrained)
    opened, rows = panel.frame("numbers"), texts.LENGTH // texts.BLOCK
    ends = {"keep": (1, rows), "scorer": lab.SCORERS, "layer": (29,), "head": (8,), "text": ("recipe",)}
    seen = {}
    for name, value in [(name, value) for name, values in ends.items() for value in values]:
        panel.apply(**{name: value})
        assert panel.message == "", (name, value)
        seen[name, value] = panel.frame("numbers"), panel.frame("block_map")
        panel.reset()
    assert seen["keep", rows][0]["lost"].abs().max() < 1e-4
    assert seen["keep", rows][1]["block_read"].all()
    assert seen["keep", 1][1]["block_read"].sum() == 2 * rows - 1
    assert not seen["head", 8][1].equals(panel.frame("block_map"))
    assert panel.frame("numbers").equals(opened)


def _target(a, block):
    largest = a.unflatten(0, (-1, block)).unflatten(2, (-1, block)).amax((1, 3))
    return largest / largest.sum(-1, keepdim=True)


def _mean_target(a, block):
    mean = a.unflatten(0, (-1, block)).unflatten(2, (-1, block)).mean((1, 3))
    return mean / mean.sum(-1, keepdim=True)


def _stays(scores, budget, latest):
    ranked = scores.clone()
    ranked[len(scores) - latest :] = torch.inf
    kept = torch.zeros(len(scores), dtype=torch.bool)
    kept[ranked.topk(budget).indices] = True
    return kept


def _minus_zero(scores, budget, latest):
    scores[-latest:] = torch.inf
    kept = torch.zeros(len(scores), dtype=torch.bool)
    kept[scores.topk(budget).indices] = True
    return kept


def _too_many(scores, budget, latest):
    kept = _stays(scores[: len(scores) - latest], budget, 0)
    return torch.cat([kept, torch.ones(latest, dtype=torch.bool)])


MISTAKES = [
    (checks.block_target, _target, None),
    (checks.block_target, _mean_target, "drowns in it"),
    (checks.block_target, lambda a, block: _target(a, block).T, "transposed"),
    (
        checks.block_target,
        lambda a, block: a.unflatten(0, (-1, block)).unflatten(2, (-1, block)).amax((1, 3)),
        "divide each row by its sum",
    ),
    (checks.stays, _stays, None),
    (checks.stays, lambda scores, budget, latest: _stays(scores, budget, 0), "latest keys are not protected"),
    (checks.stays, lambda scores, budget, latest: ~_stays(scores, budget, latest), "True where a key goes"),
    (checks.stays, _too_many, "count towards the budget"),
    (checks.stays, _minus_zero, "without any"),
    (checks.mean_received, lambda a: a.sum(0) / torch.arange(len(a), 0, -1), None),
    (checks.mean_received, lambda a: a.sum(0), "this is the sum"),
    (checks.mean_received, lambda a: a.mean(0), "divided by T"),
    (checks.mean_received, lambda a: a.sum(0) / torch.arange(1, len(a) + 1), "runs the wrong way"),
]


@pytest.mark.parametrize(("check", "answer", "diagnosis"), MISTAKES)
def test_checks_name_the_mistake(check, answer, diagnosis, expect_diagnosis):
    expect_diagnosis(check, answer, diagnosis)
