"""Lesson 12: its experiments at their smallest, its comparisons at equal budgets, its effects on planted records."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from gatescope.layers.adaptive import ACM, ACMSpec
from gatescope.layers.exits import ExitRule
from gatescope.models.exiting import mean_cost
from gatescope_lessons.l12_spending_compute import lab, learners, leaving
from gatescope_lessons.papers import load_claims
from gatescope_lessons.verdicts import judge

CLAIMS = {claim.id: claim for claim in load_claims() if claim.lesson == "l12_spending_compute"}


@pytest.fixture(scope="module")
def quick() -> xr.Dataset:
    return lab.measure("quick")


@pytest.fixture(scope="module")
def warm() -> leaving.ExitingClassifier:
    return leaving.warmed(0, leaving.trained_backbone(0, 80), 40)


def test_the_quick_record_holds_all_that_the_full_one_does(quick: xr.Dataset) -> None:
    exits, acm = lab.of_exits(quick), lab.of_learners(quick)
    assert set(quick.data_vars) == {*exits.data_vars, *acm.data_vars}
    for part in (exits, acm):
        assert all(bool(part[name].notnull().all()) for name in part.data_vars)
    assert quick.sizes["seed"] == 1


def test_all_methods_cost_the_same(quick: xr.Dataset) -> None:
    cost = quick.exit_cost.sel(variant=list(leaving.METHODS)).squeeze()
    # One digit of 1,440 may go one exit further or not.
    assert float(cost.max() - cost.min()) < 0.002
    share = quick.acm_share.sel(variant=list(learners.ALLOCATIONS)).squeeze()
    # What the second layer's gate reads changes when the first layer's choices are dealt out.
    assert float(share.sel(variant="gate")) == pytest.approx(float(share.sel(variant="gate, shuffled")), abs=0.01)
    assert float(share.sel(variant="same for all")) == float(quick.budget[0])


def test_exits_that_learn_alike_do_not_know_of_the_gates(warm) -> None:
    """The baseline: heads of "alike" are those that no gate stood beside, heads of "joint" are not."""
    plain = leaving.deepcopy(warm)
    leaving.Training(plain, leaving.ExitTask(leaving.task(0)), leaving.spec(2_000, 20, lr=1e-2)).run(progress=False)
    alike, joint = (leaving.trained(warm, 0, 0.3, modules, 20) for modules in ("alike", "joint"))
    for place, head in enumerate(plain.exits.heads):
        torch.testing.assert_close(alike.exits.heads[place].weight, head.weight)
        assert not torch.allclose(joint.exits.heads[place].weight, head.weight, atol=1e-3)
        assert torch.equal(joint.backbone.layers[place].weight, warm.backbone.layers[place].weight)
    assert all(float(gate.weight.detach().abs().max()) > 0 for gate in alike.exits.gates)


@torch.no_grad()
def test_a_budget_is_kept_by_every_score(warm) -> None:
    images = leaving.held_out(0, "test", copies=1).images
    for rule in (ExitRule(), ExitRule(score="confidence"), ExitRule(score="confidence", temperatures=(2.0,) * 4)):
        costs = [
            mean_cost(leaving.at_budget(warm, images, rule, share * warm.costs[-1])[0], warm.costs) / warm.costs[-1]
            for share in (0.0, 0.2, 1.0)
        ]
        assert costs[0] == pytest.approx(warm.costs[0] / warm.costs[-1])
        assert costs[1] <= 0.2
        assert costs[2] == 1.0 or rule.score == "gate"


@torch.no_grad()
def test_leaving_by_lot_has_no_bias(warm) -> None:
    part = leaving.held_out(0, "test")
    logits = warm(part.images)
    place = torch.randint(0, 3, (len(logits),), generator=torch.Generator().manual_seed(0))
    left = leaving.Left(logits[torch.arange(len(logits)), place], place)
    assert abs(leaving.outcome(warm, part, left, ExitRule(score="confidence")).bias) < 0.02
    chosen = warm.leave(logits, ExitRule(score="confidence", threshold=0.3))
    found = leaving.outcome(warm, part, chosen, ExitRule(score="confidence", threshold=0.3))
    assert found.cost < 1
    assert 0 <= found.ece <= 1


def test_parts_of_the_held_out_images_share_none() -> None:
    validation, test = (leaving.held_out(1, part, copies=2) for part in ("validation", "test"))
    clean = leaving.Digits(split_seed=1, held_out=leaving.HELD_OUT).test[0]
    assert torch.allclose(validation.images[:360], clean[:360], atol=1.5)
    assert torch.equal(validation.images, leaving.held_out(1, "validation", copies=2).images)
    assert float((test.images[:360] - clean[360:]).std()) == pytest.approx(leaving.NOISE, rel=0.05)
    assert not torch.equal(test.images[:360], test.images[360:])


def test_learners_are_dealt_out_by_lot_and_none_is_lost() -> None:
    choice = torch.eye(5)[torch.arange(20).view(4, 5) % 5]
    module = ACM(ACMSpec(learners=4, hidden=2), 3)
    dealt = learners.shuffled(0)(module, torch.zeros(4, 5, 3), choice)
    assert not torch.equal(dealt, choice)
    assert torch.equal(dealt.sum((0, 1)), choice.sum((0, 1)))


def planted(**changes: float) -> xr.Dataset:
    """A record in which every effect is as the papers say, but for ``changes`` of single numbers."""
    seeds, n = np.arange(3), learners.SPEC.learners
    nudge = 1e-4 * seeds[:, None, None]
    accuracy = np.full((3, 4, 3), 0.90) + nudge
    accuracy[:, 0] += changes.get("joint", 0.02)
    ece = np.full((3, 4, 3), 0.06) + nudge
    ece[:, 0] += changes.get("ece", -0.03)
    nll = np.full((3, 3, 3), 2.20) + nudge
    nll[:, 1] += changes.get("same", 0.02)
    needed = np.zeros((3, 2, n + 1))
    needed[:, :, n] = changes.get("all", 0.1)
    needed[:, 0, 1], needed[:, 1, 4] = 1 - needed[:, 0, n], 1 - needed[:, 1, n]
    needed[1:, :, 2] += 1e-3
    own = {
        "exit_accuracy": (("seed", "variant", "trade"), accuracy),
        "exit_ece": (("seed", "variant", "trade"), ece),
        "early_bias": (("seed", "variant", "trade"), np.full((3, 4, 3), changes.get("bias", 0.02)) + nudge),
    }
    exits = xr.Dataset(own, {"seed": seeds, "variant": list(leaving.METHODS), "trade": list(leaving.TRADES)})
    budgets = np.array(learners.BUDGETS)
    acm = xr.Dataset(
        {
            "acm_nll": (("seed", "variant", "budget"), nll),
            "acm_share": (
                ("seed", "variant", "budget"),
                np.broadcast_to(budgets + changes.get("miss", 0.01), (3, 3, 3)) + nudge,
            ),
            "dense_nll": (("seed", "setting"), np.full((3, 2), 2.2) + changes.get("dense", 0.0)),
            "needed": (("seed", "layer", "learner"), needed),
            "difficulty": (("seed", "budget"), np.full((3, 3), changes.get("rank", 0.2)) + nudge[:, 0]),
        },
        {
            "seed": seeds,
            "variant": list(learners.ALLOCATIONS),
            "budget": budgets,
            "setting": ["as it came", "trained on"],
            "layer": [0, 1],
            "learner": np.arange(n + 1),
        },
    )
    return xr.merge([exits, acm], join="outer")


def outcome(claim_id: str, record: xr.Dataset) -> str:
    terms = CLAIMS[claim_id].terms
    return judge(lab.METRICS[terms.metric](record), terms).outcome


@pytest.mark.parametrize("claim_id", sorted(CLAIMS))
def test_a_record_as_the_papers_say_shows_every_claim(claim_id: str) -> None:
    assert outcome(claim_id, planted()) == "shown"


@pytest.mark.parametrize(
    ("claim_id", "changes"),
    [
        ("jei-accuracy", {"joint": -0.02}),
        ("jei-mismatch", {"joint": -0.02}),
        ("jei-calibration", {"ece": 0.03}),
        ("jei-threshold-bias", {"bias": -0.02}),
        ("acm-few-tokens", {"all": 0.6}),
        ("acm-no-loss", {"dense": -0.1}),
        ("acm-token-wise", {"same": -0.02}),
        ("acm-budget", {"miss": 0.2}),
        ("acm-difficulty", {"rank": -0.2}),
    ],
)
def test_the_opposite_contradicts(claim_id: str, changes: dict) -> None:
    assert outcome(claim_id, planted(**changes)) == "contradicted"
