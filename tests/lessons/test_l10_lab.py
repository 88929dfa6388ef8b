"""Lesson 10: its experiments at their smallest, its effects on planted records, and its checks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from gatescope.models import MLPSpec
from gatescope.sparsifiers import NMSpec, kept_share
from gatescope.train import Training
from gatescope_lessons.l10_tickets_and_nm import lab, nm, runs, tickets
from gatescope_lessons.l10_tickets_and_nm.lazy import LEARNERS
from gatescope_lessons.papers import load_claims


@pytest.fixture(scope="module")
def quick() -> xr.Dataset:
    return lab.measure("quick")


def test_the_quick_record_holds_all_that_the_full_one_does(quick: xr.Dataset) -> None:
    assert set(quick.data_vars) == {"ticket_accuracy", "nm_nll", "nm_accuracy", "sad", "active", "lazy_loss"}
    assert quick.sizes["seed"] == 1
    assert quick.ticket_accuracy.notnull().all()
    at_start = quick.ticket_accuracy.sel(kept=1.0, step=0)
    assert ((at_start > 0) & (at_start < 0.4)).all()
    assert (quick.ticket_accuracy.sel(step=50) > 0.6).all()
    untouched = quick.ticket_accuracy.sel(kept=1.0)
    assert (untouched.sel(start="ticket") == untouched.sel(start="random places")).all()
    assert (untouched.sel(start="ticket") != untouched.sel(start="new weights")).any()


def test_a_wanderer_has_sad_and_a_fixed_mask_has_none_recorded(quick: xr.Dataset) -> None:
    sad = quick.sad.isel(seed=0, pattern=0).sel(step=[25, 50])
    assert (sad.sel(rule=["STE", "SR-STE"]) > 0).all()
    assert sad.sel(rule=["dense", "one-shot", "tuned"]).isnull().all()
    loss = quick.nm_nll.isel(seed=0, pattern=0)
    assert loss.sel(rule="tuned") < loss.sel(rule="one-shot")


def test_starts_of_a_round_share_all_but_one_thing() -> None:
    masks = {
        name: torch.rand(weight.shape) < 0.3 for name, weight in runs.lenet(0).named_parameters() if weight.ndim == 2
    }
    found = {name: dict(model.named_parameters()) for name, model in tickets.starts(0, 3, masks).items()}
    for name, mask in masks.items():
        ticket, anew, moved = (found[start][name].detach() for start in tickets.STARTS)
        assert torch.equal(ticket != 0, mask)
        assert torch.equal(anew != 0, mask)
        assert not torch.equal(anew, ticket)
        assert int((moved != 0).sum()) == int(mask.sum())
        assert not torch.equal(moved != 0, mask)


def test_cutting_once_keeps_the_dense_network_whole() -> None:
    dense = nm.Classifier(nm.BLOCKS, init_seed=1)
    cut = nm.cut_once(dense, NMSpec(n=1, m=8))
    held = {name: weight != 0 for name, weight in cut.named_parameters() if weight.ndim == 2}
    assert kept_share({name: held[name] for name in ("layers.0.weight", "layers.1.weight")}) == 1 / 8
    assert held["layers.2.weight"].all()
    assert all((weight != 0).all() for weight in dense.parameters() if weight.ndim == 2)


def test_neurons_get_lazy_by_training_with_relu_and_are_never_off_with_gelu() -> None:
    """Against the same model untrained, and against the activation that transformers are usually built with."""
    training = LEARNERS["transformer, narrow"].training(0, steps=50)
    config = training.model.config
    gelu = Training(replace(config, mlp=MLPSpec("gelu", 64)), training.task, training.spec, training.probes)
    active = {}
    for name, run in (("relu", training), ("gelu", gelu)):
        active[name] = 1 - run.run(progress=False).record.activation_zeros.mean("layer")
    assert float(active["relu"].sel(step=0)) == pytest.approx(0.5, abs=0.03)
    assert float(active["relu"].sel(step=50)) < 0.44
    assert (active["gelu"] > 0.999).all()


def planted(**changes: float) -> xr.Dataset:
    """A record in which every effect is as the papers say, but for ``changes`` of single numbers."""
    seeds, steps = np.arange(5), np.arange(0, 401, 25)
    kept = [1.0, lab.HALF, lab.TENTH, lab.TWENTIETH, lab.THIRTIETH]
    nudge = 1e-4 * seeds[:, None, None, None]
    accuracy = np.full((5, 3, 5, len(steps)), 0.97) + nudge
    accuracy[:, 0, 1] = 0.99
    accuracy[:, 0, 0, 1] = 0.8
    accuracy[:, 1, 3:] = changes.get("new_weights", 0.9)
    variants = list(LEARNERS)
    active = np.full((5, len(variants), len(steps)), 0.5) + 1e-4 * seeds[:, None, None]
    active[..., 8:] = 0.05
    active[:, variants.index("transformer, narrow"), 8:] = 0.06
    active[:, variants.index("transformer, wide"), 8:] = changes.get("wide", 0.04)
    sad = np.full((5, 6, 1, len(steps)), 0.02) + nudge
    sad[:, 5] = changes.get("sad", 0.01)
    nll = np.full((5, 6, 1), 0.1) + 1e-4 * seeds[:, None, None]
    nll[:, 5] = 0.05
    return xr.Dataset(
        {
            "ticket_accuracy": (("seed", "start", "kept", "step"), accuracy),
            "sad": (("seed", "rule", "pattern", "step"), sad),
            "nm_nll": (("seed", "rule", "pattern"), nll),
            "nm_accuracy": (("seed", "rule", "pattern"), 1 - nll),
            "active": (("seed", "variant", "step"), active),
        },
        coords={
            "seed": seeds,
            "start": list(tickets.STARTS),
            "kept": kept,
            "step": steps,
            "rule": list(nm.RULES),
            "pattern": ["2:4"],
            "variant": variants,
        },
    )


def claims() -> dict:
    return {claim.id: claim for claim in load_claims() if claim.lesson == "l10_tickets_and_nm"}


def outcome(claim_id: str, record: xr.Dataset) -> str:
    from gatescope_lessons.verdicts import judge

    terms = claims()[claim_id].terms
    return judge(lab.METRICS[terms.metric](record), terms).outcome


@pytest.mark.parametrize("claim_id", sorted(claims()))
def test_a_record_as_the_papers_say_shows_every_claim(claim_id: str) -> None:
    assert outcome(claim_id, planted()) == "shown"


@pytest.mark.parametrize(
    ("claim_id", "changes"),
    [
        ("lottery-new-weights", {"new_weights": 0.99}),
        ("lottery-sparse-is-hard", {"new_weights": 0.99}),
        ("nm-sad-lower", {"sad": 0.04}),
        ("lazy-wider", {"wide": 0.08}),
    ],
)
def test_the_opposite_contradicts(claim_id: str, changes: dict) -> None:
    assert outcome(claim_id, planted(**changes)) == "contradicted"
