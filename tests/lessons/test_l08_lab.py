"""Lesson 08: runs that can be left, metrics on planted records, panels that answer at their ends, checks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from gatescope.clustered import EXPERTS, ClusterTraining, Recipe, look
from gatescope.errors import Refusal
from gatescope.layers import BiasUpdate
from gatescope_lessons.l08_routing import checks, lab
from gatescope_lessons.l08_routing.panel import regate_panel, routing_panel
from gatescope_lessons.l08_routing.regate import Setting, regated, silent_error
from gatescope_lessons.l08_routing.training import RECIPES
from gatescope_lessons.papers import load_claims
from gatescope_lessons.verdicts import judge

CLAIMS = [claim for claim in load_claims() if claim.lesson == "l08_routing"]


def test_a_run_that_was_left_ends_where_another_ends():
    recipe = Recipe(gate=RECIPES["dense to sparse"].gate, base_steps=3)
    whole = ClusterTraining(recipe, 1, steps=8, every=0).run()
    left = ClusterTraining(recipe, 1, steps=8, every=0)
    for progress in left:
        if progress.step in (2, 5):
            break
    for _ in left:
        pass
    assert left.losses == whole.losses
    assert ClusterTraining(recipe, 2, steps=8, every=0).run().losses != whole.losses


def test_one_expert_becomes_eight_and_has_no_routing_before():
    run = ClusterTraining(Recipe(base_steps=4), 0, steps=6, every=2).run()
    assert run.model.experts.spec.experts == EXPERTS
    record = run.record
    assert record.step.values.tolist() == [0, 2, 4, 6]
    assert record.experts_visited.isnull().values.ravel().tolist() == [True, True, True, False]
    assert record.error.notnull().all()
    with pytest.raises(Refusal, match="base_steps below steps, got 6 of 6"):
        ClusterTraining(Recipe(base_steps=6), steps=6)


def test_rule_and_k_may_change_on_the_way():
    run = ClusterTraining(Recipe(), 0, steps=6, every=3)
    for progress in run:
        if progress.step == 3:
            break
    assert not run.model.experts.bias.any()
    run.rule, run.k = BiasUpdate(0.1), 2
    run.run()
    assert run.model.experts.bias.any()
    assert run.record.experts_visited.values.ravel().tolist() == [1, 1, 2]


def test_the_published_numbers_come_out_again():
    record = lab.published().sel(variant="dense to sparse", seed=1)
    run = ClusterTraining(RECIPES["dense to sparse"], 1, every=75)
    for progress in run:
        if progress.step == 75:
            break
    np.testing.assert_allclose(run.record.error, record.error.sel(step=[0, 75]), rtol=1e-3)
    np.testing.assert_allclose(run.record.experts_visited, record.experts_visited.sel(step=[0, 75]), rtol=1e-2)


def test_a_quick_measurement_keeps_no_checkpoint(monkeypatch):
    monkeypatch.setattr(lab, "_save", lambda *_: pytest.fail("a quick run renewed a checkpoint"))
    record = lab.measure("quick", variants=("top-1", "EvoMoE"), steps=301)
    assert record.variant.values.tolist() == ["top-1", "EvoMoE"]
    assert record.error.isel(step=-1).notnull().all()


@pytest.mark.parametrize("variant", lab.CHECKPOINTS)
def test_a_checkpoint_is_the_model_of_the_record(variant):
    seen = look(lab.load(variant))
    record = lab.published().sel(variant=variant, seed=0).isel(step=-1)
    for name in ("error", "load_violation", "experts_visited", "group_information"):
        np.testing.assert_allclose(seen[name], record[name], rtol=1e-3)
    gate = RECIPES[variant].gate
    own = regated(lab.load(variant), Setting(threshold=1.0 if gate is None else gate.threshold))
    assert float(own.error) == pytest.approx(float(seen.error), rel=1e-5)


def test_other_gates_do_what_they_say():
    model = lab.load("top-1, bias")
    trained, hot, dense, cold = (
        regated(model, setting).isel(layer=0)
        for setting in (Setting(), Setting(temperature=5.0), Setting(threshold=0.0), Setting(temperature=0.0))
    )
    assert float(hot.router_entropy) > float(trained.router_entropy) > float(cold.router_entropy) == 0
    assert float(dense.experts_visited) == EXPERTS
    assert float(cold.experts_visited) == 1
    busiest = int(trained.expert_load.values.argmax())
    without = regated(model, Setting(dropped=(busiest,)))
    assert float(without.expert_load.squeeze()[busiest]) == 0
    assert float(without.error) > 2 * float(trained.error)
    nobody = regated(model, Setting(dropped=tuple(range(EXPERTS))))
    assert float(nobody.error) == pytest.approx(silent_error())
    assert nobody.expert_load.isnull().all()
    with pytest.raises(Refusal, match="k and dropped among 8 experts"):
        Setting(dropped=(8,))


def test_the_gate_panel_answers_at_the_ends_of_every_control():
    panel = regate_panel()
    trained = panel.frame("numbers")
    ends = {
        "temperature": (0.0, 20.0),
        "k": (EXPERTS,),
        "threshold": ("0: all experts", "1: k alone"),
        "dropped": ((0,), tuple(range(EXPERTS))),
        "model": tuple(lab.CHECKPOINTS),
    }
    for name, value in [(name, value) for name, values in ends.items() for value in values]:
        panel.apply(**{name: value})
        assert panel.message == "", (name, value)
        panel.reset()
    panel.apply(dropped=tuple(range(EXPERTS)), temperature=0.0, k=EXPERTS)
    assert panel.message == ""
    assert panel.frame("numbers")["now"].iloc[1:].isna().all()
    panel.reset()
    assert panel.frame("numbers").equals(trained)


def test_the_live_panel_stops_goes_on_and_starts_again():
    panel = routing_panel(steps=120)
    assert panel.message == ""
    panel.run_blocking(max_steps=60)
    assert "stopped at step 60 of 120" in panel.status.value
    panel.apply(rule="bias, rate 0.1", k=3)
    assert panel.training.rule == BiasUpdate(0.1)
    panel.run_blocking()
    assert "finished at step 120 of 120" in panel.status.value
    history = panel.frame("expert_load_history")
    assert sorted(history["step"].unique()) == [0, 50, 100, 120]
    assert panel.frame("group_expert_map")["group_expert"].max() <= 1
    panel.reset()
    assert panel.training is None
    panel.apply(k=EXPERTS)
    panel.run_blocking(max_steps=1)
    assert panel.training.k == EXPERTS
    assert panel.message == ""


def planted(opposite: bool) -> xr.Dataset:
    """A record in which every claim of the lesson holds clearly, or its opposite does; seeds differ a little."""
    sign = -1.0 if opposite else 1.0
    wobble = 1 + 0.01 * np.arange(5)
    errors = dict.fromkeys(RECIPES, 1.0) | {"top-1": np.exp(0.3 * sign), "top-1, loss 0.01": 1.0}
    errors |= {"top-1, loss 0.01": np.exp(0.2 * sign) if not opposite else np.exp(-0.0), "top-1, bias": np.exp(-sign)}
    errors |= {"dense to sparse": np.exp(-sign), "EvoMoE": np.exp(-2 * sign)}
    violations = dict.fromkeys(RECIPES, 1.0)
    violations |= {"top-1, loss 0.01": np.exp(-sign), "top-1, bias": np.exp(-2 * sign)}
    steps = [0, lab.MIDWAY, 1500]
    shape = (len(RECIPES), 5, len(steps))

    def over(values: dict[str, float]) -> np.ndarray:
        own = np.array([values[name] for name in RECIPES])
        return np.broadcast_to((own[:, None] ** wobble)[..., None], shape)

    visited = np.ones(shape)
    visited[..., 0] = 0.5 if opposite else 8.0
    visited = visited * wobble[:, None] ** np.array([0, 1, 2])
    dims = ("variant", "seed", "step")
    return xr.Dataset(
        {
            "error": (dims, over(errors)),
            "load_violation": ((*dims, "layer"), over(violations)[..., None]),
            "experts_visited": ((*dims, "layer"), visited[..., None]),
            "experts_spread": (dims, np.broadcast_to(sign * wobble[:, None], shape)),
        },
        coords={"variant": list(RECIPES), "seed": range(5), "step": steps},
    )


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_is_shown_by_its_own_record_and_contradicted_by_the_opposite(claim):
    metric = lab.METRICS[claim.terms.metric]
    assert judge(metric(planted(opposite=False)), claim.terms).outcome == "shown"
    assert judge(metric(planted(opposite=True)), claim.terms).outcome == "contradicted"


def test_every_claim_has_its_metric_and_every_metric_its_claim():
    assert {claim.terms.metric for claim in CLAIMS} == set(lab.METRICS)


def _loss(p: torch.Tensor, choice: torch.Tensor) -> torch.Tensor:
    return p.shape[1] * (torch.bincount(choice, minlength=p.shape[1]) / len(p) * p.mean(0)).sum()


def _kept(z: torch.Tensor, threshold: float) -> torch.Tensor:
    p = z.softmax(-1)
    return torch.where(p > threshold, p, 0.0)


def _information(counts: np.ndarray) -> float:
    p = counts / counts.sum()
    apart, seen = np.outer(p.sum(1), p.sum(0)), p > 0
    return float((p[seen] * np.log(p[seen] / apart[seen])).sum())


MISTAKES = [
    (checks.switch_loss, _loss, None),
    (checks.switch_loss, lambda p, choice: _loss(p, choice) / 4, "factor E is missing"),
    (checks.switch_loss, lambda p, choice: 4 * (p.mean(0) ** 2).sum(), "does not know where tokens went"),
    (checks.switch_loss, lambda p, choice: 5 * _loss(p, choice), "divide by how many"),
    (checks.move_bias, lambda bias, load, rate: bias + rate * torch.sign(load.mean() - load), None),
    (checks.move_bias, lambda bias, load, rate: bias - rate * torch.sign(load.mean() - load), "even more"),
    (checks.move_bias, lambda bias, load, rate: bias + rate * (load.mean() - load), "grows with the violation"),
    (checks.move_bias, lambda bias, load, rate: rate * torch.sign(load.mean() - load), "add it to the bias"),
    (checks.sparse_gate, lambda z, T, c: _kept(z / T, c), None),
    (checks.sparse_gate, lambda z, T, c: (z / T).softmax(-1), "nobody is left out"),
    (checks.sparse_gate, lambda z, T, c: _kept(z * T, c), "divide"),
    (checks.sparse_gate, lambda z, T, c: _kept(z, c), "temperature is missing"),
    (checks.sparse_gate, lambda z, T, c: _kept(z / T, c) / _kept(z / T, c).sum(-1, keepdim=True), "renormalised"),
    (checks.information, _information, None),
    (checks.information, lambda counts: _information(counts) / np.log(2), "bits"),
]


@pytest.mark.parametrize(("check", "answer", "diagnosis"), MISTAKES)
def test_checks_name_the_mistake(check, answer, diagnosis, expect_diagnosis):
    expect_diagnosis(check, answer, diagnosis)


@pytest.mark.parametrize("which", [0, 1])
def test_an_entropy_is_no_information(which):
    def entropy(counts: np.ndarray) -> float:
        p = counts.sum(1 - which) / counts.sum()
        return float(-(p * np.log(p)).sum())

    words = ("this is the entropy of the clusters", "this is the entropy of the load")
    assert words[which] in checks.information(entropy).detail
