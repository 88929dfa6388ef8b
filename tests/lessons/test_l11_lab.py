"""Lesson 11: its experiment at its smallest, its effects on planted records, its panels at their ends, its checks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from gatescope.search import Architecture, Edge, uniform_architecture
from gatescope.sparsifiers import dense_masks
from gatescope_lessons.l11_dass import arms, checks, lab, live, panel
from gatescope_lessons.papers import load_claims
from gatescope_lessons.verdicts import judge


@pytest.fixture(scope="module")
def quick() -> xr.Dataset:
    return lab.measure("quick")


def test_the_quick_record_holds_all_that_the_full_one_does(quick: xr.Dataset) -> None:
    full = lab.published()
    assert set(quick.data_vars) == set(full.data_vars)
    assert full.sizes["seed"] == len(lab.SEEDS)
    for name in ("variant", "kept", "edge", "operation"):
        assert quick[name].values.tolist() == full[name].values.tolist()
    assert (quick.operation_chosen.sum("operation") == 1).all()
    assert np.allclose(quick.operation_weight.sum("operation"), 1)
    assert (quick.operation_chosen.sel(operation="zero") == 0).all()


def test_at_all_weights_the_sparse_search_is_the_dense_one(quick: xr.Dataset) -> None:
    whole = quick.sel(kept=1.0)
    for name in ("accuracy", "weights_left", "operation_chosen"):
        assert np.array_equal(whole[name].sel(variant=lab.SPARSE), whole[name].sel(variant=lab.DENSE))


def test_every_arm_keeps_the_share_that_was_asked_for_and_the_stem() -> None:
    architecture = Architecture((Edge(1, 0, "conv 3x3"), Edge(2, 0, "separable 3x3"), Edge(2, 1, "skip")))
    network = arms.trained(architecture, 3, 5)
    whole = arms.weights_left(network)
    assert whole == 2 * architecture.weights(16) + 2560
    for kept in (0.1, 0.02, 1.0):
        model = arms.pruned(network, kept, 3, 5)
        held = {name: weight != 0 for name, weight in model.named_parameters() if name in dense_masks(model)}
        assert held.pop("stem.weight").all()
        assert {name: int(mask.sum()) for name, mask in held.items()} == {
            name: mask.numel() - round((1 - kept) * mask.numel()) for name, mask in held.items()
        }
    assert arms.weights_left(network) == whole


def test_random_search_spends_what_a_search_does_and_finds_another_cell() -> None:
    """Against the named baseline."""
    budget = arms.Budget(search=10, dense=3, candidates=2, train=20, tune=10)
    own = budget.of_candidate()
    assert budget.candidates * (own.train + own.tune) == 2 * budget.search
    found = arms.random_architecture_at(0.1, 3, budget)
    assert found == arms.random_architecture_at(0.1, 3, budget)
    assert found != arms.search_for(0.9, 3, budget).run().architecture
    full = arms.Budget()
    assert full.candidates * (full.of_candidate().train + full.of_candidate().tune) == 2 * full.search


def planted(**changes: float) -> xr.Dataset:
    """A record in which every effect is as the paper says, but for ``changes``."""
    nudge = 1e-4 * np.arange(5)
    accuracy = np.zeros((5, 5, 3)) + nudge[:, None, None]
    # by arm, then with all, a tenth and a fiftieth of the weights
    accuracy += np.array([[0.98, 0.96, changes.get("sparse", 0.8)], [0.98, 0.95, changes.get("dense", 0.6)],
                          [0.98, 0.9, 0.6], [0.98, 0.8, 0.3], [0.98, 0.95, 0.7]])  # fmt: skip
    chosen = np.zeros((5, 5, 3, 3, 7))
    chosen[..., 1] = 1
    if changes.get("changed", 1):
        chosen[:, 0, 2] = np.roll(chosen[:, 0, 2], 1, -1)
    else:
        # dense searches that never agree, and sparse ones that follow them
        for seed in range(5):
            chosen[seed] = np.roll(chosen[seed], seed, -1)
    edges, operations = lab.edge_labels(), list(lab.SPACE.operations)
    return xr.Dataset(
        {
            "accuracy": (("seed", "variant", "kept"), accuracy),
            "operation_chosen": (("seed", "variant", "kept", "edge", "operation"), chosen),
        },
        coords={"seed": range(5), "variant": list(arms.ARMS), "kept": list(arms.KEPT), "edge": edges,
                "operation": operations},
    )  # fmt: skip


def claims() -> dict:
    return {claim.id: claim for claim in load_claims() if claim.lesson == "l11_dass"}


def outcome(claim_id: str, record: xr.Dataset) -> str:
    terms = claims()[claim_id].terms
    return judge(lab.METRICS[terms.metric](record), terms).outcome


@pytest.mark.parametrize("claim_id", sorted(claims()))
def test_a_record_as_the_paper_says_shows_every_claim(claim_id: str) -> None:
    nudged = planted()
    nudged["accuracy"] = nudged.accuracy + xr.DataArray(
        1e-3 * np.random.default_rng(0).random(nudged.accuracy.shape), dims=nudged.accuracy.dims
    )
    assert outcome(claim_id, nudged) == "shown"


@pytest.mark.parametrize(
    ("claim_id", "changes"),
    [
        ("dass-over-dense", {"dense": 0.9}),
        ("dass-dense-loses", {"dense": 0.99}),
        ("dass-lead-grows", {"sparse": 0.5}),
        ("dass-another-architecture", {"changed": 0}),
        ("dass-over-separable", {"sparse": 0.2}),
        ("dass-over-random", {"sparse": 0.5}),
    ],
)
def test_the_opposite_contradicts(claim_id: str, changes: dict) -> None:
    record = planted(**changes)
    noise = 1e-3 * np.random.default_rng(0).random(record.accuracy.shape)
    record["accuracy"] = record.accuracy + xr.DataArray(noise, dims=record.accuracy.dims)
    assert outcome(claim_id, record) == "contradicted"


def test_every_claim_has_its_metric_and_every_metric_its_claim() -> None:
    assert {claim.terms.metric for claim in claims().values()} == set(lab.METRICS)


def test_architectures_become_rows_of_0_and_1() -> None:
    skip, conv = (uniform_architecture(lab.SPACE, name) for name in ("skip", "conv 1x1"))
    one, other = (xr.DataArray(lab.one_hot(architecture)) for architecture in (skip, conv))
    assert one.sum() == 3
    assert lab.differing(one, one) == 0
    assert lab.differing(one, other) == skip.differs(conv, lab.SPACE) == 1


def test_the_search_panel_stops_goes_on_and_starts_again() -> None:
    searching = panel.search_panel(steps=6)
    assert searching.message == ""
    searching.run_blocking(max_steps=3)
    assert "stopped at step 3 of 6" in searching.status.value
    assert len(searching.frame()) == 4 * 7
    before = searching.frame()["operation_weight"].tolist()
    searching.apply(edge="1→2", sparsity=0.999)
    assert searching.frame()["operation_weight"].tolist() != before
    assert searching.training.spec.sparsity == 0.999
    searching.run_blocking()
    assert "finished at step 6 of 6" in searching.status.value
    assert searching.frame("cell_graph")["operation_chosen"].sum() == 3
    assert searching.message == ""
    searching.reset()
    assert searching.training is None
    searching.apply(seed=9)
    searching.run_blocking(max_steps=1)
    assert searching.training.spec.seed == 9
    assert searching.message == ""


def test_the_sparsity_slider_searches_anew_and_answers_at_its_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SHORT", arms.Budget(search=6, dense=2, train=10, tune=5))
    live._short_search.cache_clear()
    live._finished.cache_clear()
    sparse = panel.sparse_panel(sparsity=0.0)
    numbers = sparse.frame("numbers").set_index("search")
    assert numbers.loc["sparse"].tolist() == numbers.loc["dense"].tolist()
    whole = sparse.frame("cell_graph")["operation_weight"].tolist()
    sparse.sparsity.value = 0.9
    assert sparse.frame("cell_graph")["operation_weight"].tolist() != whole
    assert sparse.frame("numbers")["weights_left"].max() < numbers["weights_left"].min()
    for value in live.SPARSITIES[-2:]:
        sparse.sparsity.value = value
        assert sparse.message == ""
        assert 0 <= sparse.frame("numbers")["accuracy"].min() <= 1
    sparse.reset()
    assert sparse.frame("numbers").set_index("search").equals(numbers)
    live._short_search.cache_clear()
    live._finished.cache_clear()


def softmax(alpha):
    return alpha.softmax(0)


def scores(outputs, upstream):
    return (upstream * outputs).flatten(1).sum(1)


def mix(outputs, weights):
    return torch.einsum("o,o...->...", weights, outputs)


def cell(weights, edges, operations, keep, skipped=1, of=None):
    best = [skipped + int(np.argmax(row[skipped:])) for row in weights]
    found = {}
    for node in {to for _, to in edges}:
        rows = [row for row, (_, to) in enumerate(edges) if to == node]
        rows.sort(key=lambda row: -(weights[row, best[row]] if of is None else of(weights[row])))
        found |= {edges[row]: operations[best[row]] for row in rows[:keep]}
    return found


def best_five(weights, edges, operations, keep):
    order = sorted(range(len(edges)), key=lambda row: -weights[row, 1:].max())[:5]
    return {edges[row]: operations[1 + int(np.argmax(weights[row, 1:]))] for row in order}


ANSWERS = [
    (checks.mixture, lambda outputs, alpha: mix(outputs, softmax(alpha)), None),
    (checks.mixture, lambda outputs, alpha: mix(outputs, alpha), "not yet a weight"),
    (checks.mixture, lambda outputs, alpha: outputs[int(alpha.argmax())], "only the best"),
    (checks.mixture, lambda outputs, alpha: outputs.mean(0), "weigh the same"),
    (checks.mixture, lambda outputs, alpha: mix(outputs, alpha.sigmoid()), "would not compete"),
    (
        checks.alpha_gradient,
        lambda o, a, g: softmax(a) * (scores(o, g) - (softmax(a) * scores(o, g)).sum()),
        None,
    ),
    (checks.alpha_gradient, lambda o, a, g: scores(o, g), "softmax stands between"),
    (checks.alpha_gradient, lambda o, a, g: softmax(a) * scores(o, g), "couples the candidates"),
    (checks.alpha_gradient, lambda o, a, g: softmax(a) * (scores(o, g) - scores(o, g).mean()), "weigh it by p"),
    (checks.alpha_gradient, lambda o, a, g: softmax(a) * (1 - softmax(a)) * scores(o, g), "only the diagonal"),
    (
        checks.alpha_gradient,
        lambda o, a, g: -softmax(a) * (scores(o, g) - (softmax(a) * scores(o, g)).sum()),
        "step downhill",
    ),
    (checks.derive_cell, cell, None),
    (checks.derive_cell, lambda *given: cell(*given, skipped=0), "'zero' is chosen"),
    (checks.derive_cell, lambda w, e, o, k: cell(w, e, o, 9), "every edge is there"),
    (checks.derive_cell, lambda *given: cell(*given, of=lambda row: 1 - row[0]), "all that is not 'zero'"),
    (checks.derive_cell, best_five, "more than two edges"),
    (checks.derive_cell, lambda w, e, o, k: {(0, 1): "skip", (0, 2): "skip"}, "no edge into it"),
    (checks.derive_cell, lambda w, e, o, k: cell(w, e, o, 1), "edge (1, 2)"),
    (checks.derive_cell, lambda w, e, o, k: list(cell(w, e, o, k)), "wanted a dictionary"),
]


@pytest.mark.parametrize(("check", "answer", "diagnosis"), ANSWERS)
def test_checks_name_the_mistake(check, answer, diagnosis, expect_diagnosis) -> None:
    expect_diagnosis(check, answer, diagnosis)


def test_the_gradient_by_hand_is_that_of_autograd() -> None:
    alpha = checks._ALPHA.clone().requires_grad_()
    mix(checks._OUTPUTS, softmax(alpha)).backward(checks._UPSTREAM)
    assert checks.alpha_gradient(lambda *given: alpha.grad).status == "passed"


def test_blanks_are_not_attempts() -> None:
    for check in (checks.mixture, checks.alpha_gradient, checks.derive_cell):
        assert check(lambda *given: ...).status == "not attempted"
