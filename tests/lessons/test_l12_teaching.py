"""Lesson 12's checks name the mistakes people make; its panels compute, and say what happens at their ends."""

from __future__ import annotations

import pytest
import torch
from gatescope.errors import Refusal
from gatescope_lessons.l12_spending_compute import checks, live, panel
from gatescope_lessons.l12_spending_compute.learners import ALLOCATIONS, SPEC
from gatescope_lessons.l12_spending_compute.leaving import METHODS


def last_takes_the_rest(p):
    return torch.cat([p, 1 - p.sum(1, keepdim=True)], 1)


def claimed(g, before=None):
    before = g.cumsum(1) - g if before is None else before
    return torch.minimum(g, 1 - before)


def bins_of(confidence, correct, bins, of=abs, weigh=True):
    place = (confidence * bins).ceil().long() - 1
    total, seen = 0.0, 0
    for b in range(bins):
        if (inside := place == b).any():
            gap = of(float(correct[inside].double().mean() - confidence[inside].mean()))
            total += gap * (int(inside.sum()) / len(confidence) if weigh else 1)
            seen += 1
    return total if weigh else total / seen


def summed(outputs, runs):
    return (outputs * runs[..., None]).sum(1)


PLACES = torch.arange(4)
RIGHT = [
    (checks.exit_probabilities_of, lambda g: last_takes_the_rest(claimed(g).clamp(min=0))),
    (checks.calibration_error, bins_of),
    (checks.some_learners, lambda out, c: summed(out, c[:, None] > PLACES)),
    (checks.some_learners, lambda out, c: torch.stack([o[: int(k)].sum(0) for o, k in zip(out, c, strict=True)])),
]
WRONG = [
    (
        checks.exit_probabilities_of,
        lambda g: last_takes_the_rest(g * torch.cat([torch.ones(len(g), 1), (1 - g).cumprod(1)[:, :-1]], 1)),
        "independent coins",
    ),
    (checks.exit_probabilities_of, lambda g: claimed(g).clamp(min=0), "last exit is missing"),
    (checks.exit_probabilities_of, lambda g: last_takes_the_rest(claimed(g)), "below 0"),
    (checks.exit_probabilities_of, last_takes_the_rest, "more than 1"),
    (
        checks.exit_probabilities_of,
        lambda g: last_takes_the_rest(claimed(g, g.cumsum(1)).clamp(min=0)),
        "own claim is subtracted",
    ),
    (checks.calibration_error, lambda p, right, bins: float((right.double().mean() - p.mean()).abs()), "one bin"),
    (checks.calibration_error, lambda *given: bins_of(*given, of=float), "keep their sign"),
    (checks.calibration_error, lambda *given: bins_of(*given, of=lambda x: -x), "cancel"),
    (checks.calibration_error, lambda *given: bins_of(*given, weigh=False), "every bin counts alike"),
    (checks.some_learners, lambda out, c: out.sum(1), "all learners run"),
    (checks.some_learners, lambda out, c: summed(out, c[:, None] >= PLACES), "one learner too many"),
    (checks.some_learners, lambda out, c: summed(out, (c[:, None] > PLACES) & (PLACES < 3)), "last learner is lost"),
    (checks.some_learners, lambda out, c: summed(out, c[:, None] - 1 > PLACES), "one learner too few"),
    (checks.some_learners, lambda out, c: summed(out, c[:, None] - 1 == PLACES), "only the last learner"),
    (
        checks.some_learners,
        lambda out, c: summed(out, c[:, None] > PLACES) / c[:, None].clamp(min=1),
        "learners add up",
    ),
]


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_right_answers_pass(check, answer, expect_diagnosis) -> None:
    expect_diagnosis(check, answer, None)


@pytest.mark.parametrize(("check", "answer", "said"), WRONG)
def test_mistakes_are_named(check, answer, said: str, expect_diagnosis) -> None:
    expect_diagnosis(check, answer, said)


def test_blanks_are_not_attempts() -> None:
    for check in (checks.exit_probabilities_of, checks.calibration_error, checks.some_learners):
        assert check(lambda *given: ...).status == "not attempted"


@pytest.fixture(scope="module")
def reader() -> live.Reader:
    return live.Reader(steps=(150, 60, 40))


@pytest.fixture(scope="module")
def adaptive() -> live.Adaptive:
    return live.Adaptive(steps=(20, 10, 10), size=6)


def test_the_budget_decides_anew_and_its_ends_are_told(reader) -> None:
    leave = panel.leave_panel(reader, budget=0.2)
    before = leave.frame()
    leave.budget.value = panel.SHARES[0]
    assert leave.message == ""
    assert leave.frame()["leave here"].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert "No exit is that cheap" in leave._pictures["numbers"]._still.value
    leave.budget.value = panel.SHARES[-1]
    assert leave.frame()["leave here"].tolist() == [0.0, 0.0, 0.0, 1.0]
    assert leave.frame("retrieval_gallery")["picture"].nunique() == 2
    leave.reset()
    assert leave.frame().equals(before)
    assert (before["leave here"] * before["cost"]).sum() <= 0.2


@pytest.mark.parametrize("who", METHODS)
def test_whoever_decides_keeps_the_budget(reader, who) -> None:
    leave = panel.leave_panel(reader, who=who, budget=0.3)
    assert leave.message == ""
    frame = leave.frame()
    assert (frame["leave here"] * frame["cost"]).sum() <= 0.3
    assert frame["leave here"].sum() == pytest.approx(1)


def test_another_price_trains_other_gates_and_only_once(reader) -> None:
    leave = panel.leave_panel(reader, who=METHODS[0], budget=0.3)
    for price in (panel.PRICES[0], panel.PRICES[-1]):
        leave.trade.value = price
        assert leave.message == ""
    cheap, dear = (reader.model(price, "joint") for price in (panel.PRICES[0], panel.PRICES[-1]))
    assert not torch.equal(cheap.exits.gates[0].weight, dear.exits.gates[0].weight)
    assert reader.model(panel.PRICES[0], "joint") is cheap
    with pytest.raises(Refusal, match="one of"):
        reader.decider("somebody", 0.3)


def test_a_budget_of_learners_is_kept_from_none_to_all(adaptive) -> None:
    spend = panel.spend_panel(adaptive)
    for budget, wanted in ((0.0, 0), (1.0, SPEC.learners)):
        spend.budget.value = budget
        assert spend.message == ""
        frame = spend.frame().set_index("allocation")
        assert frame["learners"][: len(ALLOCATIONS)].tolist() == [budget] * 3
        assert frame["loss, nats"][: len(ALLOCATIONS)].nunique() == 1
        assert (spend.frame("token_strip")["learners"] == wanted).all()
    assert float(frame["operations"].iloc[0]) > 1.0
    assert float(frame["operations"].iloc[1]) == 1.0
    spend.reset()
    assert spend.frame().set_index("allocation")["learners"]["same for all"] == 0.125


def test_what_is_drawn_is_what_ran(adaptive) -> None:
    spend = panel.spend_panel(adaptive, drawn=ALLOCATIONS[1], budget=0.25, layer=1, sequence=5)
    assert spend.message == ""
    strip = spend.frame("token_strip")
    assert (strip["learners"] == 4).all()
    assert strip["piece"][0] == "^"
    spend.drawn.value = ALLOCATIONS[2]
    assert spend.message == ""
    with pytest.raises(Refusal, match="an allocation of"):
        adaptive.run("by taste", 0.5, 0.0)
