"""Lesson 09: fair starts, metrics on planted records, a panel that answers at its ends, checks on known mistakes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import xarray as xr
from gatescope.errors import Refusal
from gatescope.mixtures import RouterSpec, hellinger, voronoi_cells
from gatescope.mixtures.cases import SPARSE, Case, draw, start_near
from gatescope_lessons.l09_what_a_router_can_know import checks, lab
from gatescope_lessons.l09_what_a_router_can_know.cases import CASES
from gatescope_lessons.l09_what_a_router_can_know.live import TRUTHS, Setting, fitted
from gatescope_lessons.l09_what_a_router_can_know.panel import SIZES, mixture_panel
from gatescope_lessons.papers import load_claims
from gatescope_lessons.verdicts import judge

CLAIMS = [claim for claim in load_claims() if claim.lesson == "l09_what_a_router_can_know"]
INPUTS = torch.linspace(-1.9, 1.9, 15, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("name", CASES)
def test_fits_start_near_the_truth_and_not_in_it(name):
    case = CASES[name]
    start = start_near(case, 4, torch.Generator().manual_seed(0))
    exact = start_near(case, 4, torch.Generator().manual_seed(0), jitter=0.0)
    assert voronoi_cells(exact, case.truth)[0].tolist() == list(case.experts)
    assert float((start.slope - exact.slope).abs().min()) > 0
    assert not start.gate_slope[:, -1].any()
    assert not start.gate_bias[:, -1].any()
    learned = case.router.temperature == "learned"
    assert bool((start.log_temperature != exact.log_temperature).all()) == learned


def test_the_published_numbers_come_out_again():
    record = lab.published().sel(variant="top-2 exact", seed=1).isel(sample_size=[0])
    again = lab.measure_case(CASES["top-2 exact"], 1, sizes=(250,))
    np.testing.assert_allclose(again.hellinger, record.hellinger, rtol=1e-3)
    np.testing.assert_allclose(again.error_alone, record.error_alone, rtol=0.02)


def test_a_quick_measurement_has_every_case_and_metric(monkeypatch):
    monkeypatch.setattr(lab, "_INFORMATION_SAMPLES", 200)
    record = lab.measure("quick", sizes=(60, 120), replicates=2)
    assert record.variant.values.tolist() == list(CASES)
    assert all(np.isfinite(metric(record)).all() for metric in lab.METRICS.values())


@pytest.mark.parametrize(("order", "loses"), [((0, 1, 1, 2), False), ((0, 0, 1, 2), True), ((0, 1, 2, 2), True)])
def test_twins_may_take_turns_in_the_middle_cell_only(order, loses):
    twins = SPARSE.experts(order, RouterSpec(k=2))
    twins.gate_slope[0, :, 0] -= 1e-6 * torch.arange(4)
    assert (float(hellinger(twins, SPARSE, INPUTS)[0]) > 0.05) == loses


def test_more_data_bring_the_fit_nearer():
    case = Case(SPARSE, (0, 1, 2), RouterSpec(k=2))
    few, many = (lab.errors(case, lab.fit_case(case, n, 0, 6)[lab.STAGES[1]])["hellinger"] for n in (100, 3000))
    assert many < 0.5 * few


def test_data_are_those_of_their_seed():
    case = CASES["dense exact"]
    first, again, other = (draw(case.truth, 9, 2, torch.Generator().manual_seed(seed))[1] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("truth", TRUTHS)
def test_every_corner_of_the_settings_gives_finite_numbers(truth):
    for n, experts, k, spare in itertools.product((SIZES[0], 2000), (1, 4), (1, 4), (1, 2)):
        record = fitted(Setting(truth=truth, n=n, experts=experts, k=k, spare=spare), iterations=20)
        numbers = [record.attrs[name] for name in ("log_likelihood", "hellinger")]
        assert np.isfinite(numbers).all(), (n, experts, k, spare)
        assert record.sizes["expert"] == experts
        np.testing.assert_allclose(record.expert_weight.sum("expert"), 1)


def test_the_panel_answers_at_the_ends_of_every_control():
    panel = mixture_panel(samples=10)
    ends = {"samples": (SIZES[0], 1000), "experts": (1, 4), "k": (1, 4), "truth": TRUTHS[1:], "temperature": (0.1, 2.0)}
    for name, value in [(name, value) for name, values in ends.items() for value in values]:
        panel.apply(**{name: value})
        assert panel.message == "", (name, value)
    assert panel.frame("numbers")["truth"].iloc[-1] == pytest.approx(2.0)


def test_the_panel_says_where_there_is_no_cell_and_goes_back():
    panel = mixture_panel(samples=30, experts=2)
    panel.apply(truth=TRUTHS[0], spare=3)
    assert "wanted a spare cell of 1 to 2, got 3" in panel.message
    panel.reset()
    assert panel.message == ""
    assert panel.state["experts"] == 2
    with pytest.raises(Refusal, match="a truth of"):
        fitted(Setting(truth="none", n=10, experts=1, k=1))


@pytest.mark.parametrize("spare", [1, 2, 3])
def test_a_fit_finds_the_way_out_wherever_its_spare_starts(spare):
    sparse = fitted(Setting(truth=TRUTHS[1], n=3000, experts=4, k=2, spare=spare, seed=1))
    dense = fitted(Setting(truth=TRUTHS[0], n=3000, experts=3, k=2, spare=1, seed=1))
    assert sparse.attrs["hellinger"] < 0.03 < dense.attrs["hellinger"]


def planted(opposite: bool) -> xr.Dataset:
    """A record in which every claim of the lesson holds clearly, or its opposite does; seeds differ a little."""
    n, seeds = np.array(lab.SIZES, dtype=float), np.arange(5)
    fast, slow = (-0.05, -0.7) if opposite else (-0.5, -0.2)
    exponents = {
        "voronoi_loss": dict.fromkeys(CASES, fast),
        "hellinger": dict.fromkeys(CASES, fast),
        "error_temperature": {"temperature, linear": slow + 0.15, "temperature, tanh": fast},
    }
    shape = ("variant", "seed", "sample_size", "setting")

    def falling(exponent: float) -> np.ndarray:
        wobble = exponent * (1 + 0.01 * seeds[:, None])
        return np.repeat((n**wobble)[..., None], 2, -1)

    variables = {
        name: (shape, np.stack([falling(own.get(case, fast)) for case in CASES])) for name, own in exponents.items()
    }
    for case, factor in (("dense over, K = 2", 3.0), ("top-2 over, K = 2", 3.0)):
        variables["hellinger"][1][list(CASES).index(case)] *= 1 / factor if opposite else factor
    order = 0.1 if opposite else -0.1
    groups = [slow - order, slow, slow - order, slow]
    shared = np.stack([np.stack([falling(group) for group in groups], -1) for _ in CASES])
    information = [[1e-3 if opposite else 1e-17] * 5 if "linear" in case else [1e-12 if opposite else 1e-3] * 5
                   for case in CASES]  # fmt: skip
    return xr.Dataset(
        {
            **variables,
            "error_shared": ((*shape, "parameter"), shared),
            "information_smallest": (("variant", "seed"), np.array(information) * (1 + 0.01 * seeds)),
        },
        coords={
            "variant": list(CASES),
            "seed": seeds,
            "sample_size": list(lab.SIZES),
            "setting": list(lab.STAGES),
            "parameter": ["gate slope", "slope", "intercept", "scale"],
        },
    )


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_is_shown_by_its_own_record_and_contradicted_by_the_opposite(claim):
    metric = lab.METRICS[claim.terms.metric]
    record = planted(opposite=False)
    assert judge(metric(record), claim.terms).outcome == "shown"
    assert judge(metric(planted(opposite=True)), claim.terms).outcome == "contradicted"


def test_every_claim_has_its_metric_and_every_metric_its_claim():
    assert {claim.terms.metric for claim in CLAIMS} == set(lab.METRICS)


def _cut(z: torch.Tensor, rank: torch.Tensor, k: int) -> torch.Tensor:
    kept = rank.topk(k, dim=-1).indices
    return torch.full_like(z, -torch.inf).scatter(-1, kept, z.gather(-1, kept)).softmax(-1)


MISTAKES = [
    (checks.top_k_gate, lambda x, w, b, k: _cut(x[:, None] * w + b, x[:, None] * w, k), None),
    (checks.top_k_gate, lambda x, w, b, k: (x[:, None] * w + b).softmax(-1), "nobody is cut"),
    (checks.top_k_gate, lambda x, w, b, k: _cut(x[:, None] * w + b, x[:, None] * w + b, k), "say in who stays"),
    (checks.top_k_gate, lambda x, w, b, k: _cut(x[:, None] * w, x[:, None] * w, k), "bias is missing"),
    (checks.top_k_gate, lambda x, w, b, k: _cut(x[:, None] * w + b, -x[:, None] * w, k), "smallest w x"),
    (checks.smallest_k, lambda cells, regions: max(sum(map(cells.count, region)) for region in regions), None),
    (checks.smallest_k, lambda cells, regions: 2, "spare ones need room"),
    (checks.smallest_k, lambda cells, regions: len(cells), "more than the condition asks"),
    (checks.smallest_k, lambda cells, regions: min(sum(map(cells.count, r)) for r in regions), "needs most"),
    (checks.same_gate, lambda w, b, tau: (2 * w, 2 * b, 2 * tau), None),
    (checks.same_gate, lambda w, b, tau: (w, b, 2 * tau), "now softer"),
    (checks.same_gate, lambda w, b, tau: (2 * w, b, 2 * tau), "b did not"),
    (checks.same_gate, lambda w, b, tau: (w / 2, b / 2, 2 * tau), "must grow"),
    (checks.same_gate, lambda w, b, tau: (w, b, tau), "twice the 0.5"),
    (checks.same_gate, lambda w, b, tau: w, "wanted three things"),
]


@pytest.mark.parametrize(("check", "answer", "diagnosis"), MISTAKES)
def test_checks_name_the_mistake(check, answer, diagnosis, expect_diagnosis):
    expect_diagnosis(check, answer, diagnosis)


def test_exponents_are_checked_with_their_seeds():
    record = planted(opposite=False)
    record["error_alone"] = record.error_shared**2
    right = lab.rates(record, "error_shared", "dense over", parameter="slope")
    assert checks.exponents(right, record)
    assert "sign is lost" in checks.exponents(-right, record).detail
    assert "your evidence" in checks.exponents(right.mean(), record).detail
    assert "alone in their cell" in checks.exponents(2 * right, record).detail
    assert checks.exponents(..., record).status == "not attempted"


def test_errors_side_by_side_are_one_record():
    record = planted(opposite=False).sel(setting=lab.STAGES[1], parameter="slope")
    own = record.error_shared.sel(variant="dense over")
    joined = lab.side_by_side({"a": own, "b": 2 * own}, "error", "note")
    np.testing.assert_allclose(joined.error.sel(variant="b"), 2 * own)
