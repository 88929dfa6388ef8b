"""Lesson 10's checks name the mistakes people make; its panels compute, and say what cannot be asked."""

from __future__ import annotations

import pytest
import torch
from gatescope.errors import Refusal
from gatescope_lessons.l10_tickets_and_nm import checks, live, panel
from torch import nn


def top(scores: torch.Tensor, count: int) -> torch.Tensor:
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[scores.flatten().topk(count).indices] = True
    return mask.view_as(scores)


def kept(w: torch.Tensor, share: float) -> int:
    return w.numel() - round(share * w.numel())


def groups(scores: torch.Tensor, n: int, m: int) -> torch.Tensor:
    split = scores.reshape(len(scores), -1, m)
    return torch.zeros_like(split).scatter(-1, split.topk(n, dim=-1).indices, 1).view_as(scores)


def ticket(initial, trained, mask, share, score=None, rewound=True):
    alive = int(mask.sum())
    scores = (trained if score is None else score).abs().masked_fill(~mask, -torch.inf)
    new = top(scores, alive - round(share * alive))
    return new, (initial if rewound else trained) * new


RIGHT = [
    (checks.keep_largest, lambda w, share: top(w.abs(), kept(w, share))),
    (checks.keep_largest, lambda w, share: top(w.abs(), kept(w, share)).long()),
    (checks.next_ticket, ticket),
    (checks.n_of_m, lambda w, n, m: groups(w.abs(), n, m)),
    (checks.srste_gradient, lambda g, w, mask, decay: g + decay * (1 - mask) * w),
]
WRONG = [
    (checks.keep_largest, lambda w, share: top(w, kept(w, share)), "with its sign"),
    (checks.keep_largest, lambda w, share: top(-w.abs(), kept(w, share)), "smallest stay"),
    (checks.keep_largest, lambda w, share: top(w.abs(), round(share * w.numel())), "share to cut"),
    (checks.keep_largest, lambda w, share: groups(w.abs(), 4, 16), "every row keeps as many"),
    (checks.next_ticket, lambda *given: ticket(*given, rewound=False), "fine-tuning"),
    (checks.next_ticket, lambda i, t, m, s: ticket(i, t, m, s, score=i), "initial weights are ranked"),
    (checks.next_ticket, lambda i, t, m, s: (ticket(i, t, m, s)[0], i), "mask is not applied"),
    (checks.next_ticket, lambda i, t, m, s: (ticket(i, t, m, s)[0], i * m), "old mask"),
    (checks.next_ticket, lambda i, t, m, s: ticket(i, t, m, s)[0], "wanted two things"),
    (
        checks.next_ticket,
        lambda i, t, m, s: (top(t.abs().masked_fill(~m, -1), int(m.sum()) - round(s * m.numel())), i),
        "still there, not of all",
    ),
    (checks.n_of_m, lambda w, n, m: groups(w, n, m), "with its sign"),
    (checks.n_of_m, lambda w, n, m: groups(-w.abs(), n, m), "smallest of a group"),
    (checks.n_of_m, lambda w, n, m: groups(w.abs(), m - n, m), "how many stay"),
    (checks.n_of_m, lambda w, n, m: groups(w.abs(), 4, 16), "wherever they are"),
    (checks.n_of_m, lambda w, n, m: groups(w.abs().T, n, m).T, "along the outputs"),
    (checks.srste_gradient, lambda g, w, mask, decay: g, "plain STE"),
    (checks.srste_gradient, lambda g, w, mask, decay: g + decay * mask * w, "weights that are read decay"),
    (checks.srste_gradient, lambda g, w, mask, decay: g + decay * w, "all weights decay"),
    (checks.srste_gradient, lambda g, w, mask, decay: g * mask + decay * (1 - mask) * w, "never learn"),
    (checks.srste_gradient, lambda g, w, mask, decay: g - decay * (1 - mask) * w, "wrong sign"),
]


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_right_answers_pass(check, answer, expect_diagnosis) -> None:
    expect_diagnosis(check, answer, None)


@pytest.mark.parametrize(("check", "answer", "said"), WRONG)
def test_mistakes_are_named(check, answer, said: str, expect_diagnosis) -> None:
    expect_diagnosis(check, answer, said)


def test_blanks_are_not_attempts() -> None:
    for check in (checks.keep_largest, checks.next_ticket, checks.n_of_m, checks.srste_gradient):
        assert check(lambda *given: ...).status == "not attempted"


@pytest.fixture(scope="module")
def networks() -> list[nn.Module]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield live.trained_networks((0, 1), steps=60)
    torch.set_num_threads(before)


def means(pruning: panel.PrunePanel) -> dict[str, float]:
    return pruning.frame().drop_duplicates("variant").set_index("variant")["mean"].to_dict()


def test_the_slider_cuts_anew(networks) -> None:
    pruning = panel.prune_panel(networks, sparsity=0.0)
    whole = means(pruning)
    assert len(set(whole.values())) == 1
    pruning.sparsity.value = 0.8
    cut = means(pruning)
    assert cut["whole"] == whole["whole"] > cut["smallest cut"] > cut["random cut"]
    assert float(pruning.frame("weight_profile")["weight_zeros"].max()) == pytest.approx(0.8, abs=0.01)
    pruning.apply(sparsity=0.999, scope="global")
    assert means(pruning)["smallest cut"] < 0.5
    assert pruning.message == ""
    pruning.reset()
    assert means(pruning) == whole


def test_n_and_m_draw_a_mask_and_refuse_what_is_none() -> None:
    network = live.trained_blocks(steps=60)
    patterns = panel.nm_panel(network)
    frame = patterns.frame("mask_map")
    assert frame.groupby(["hidden", frame["dim"] // 4])["masked_weight"].count().eq(2).all()
    found = patterns.frame().set_index("kept")["accuracy"]
    assert found["dense"] >= found["the N largest"] > found["the N smallest"]
    patterns.n.value = 0
    assert "a row that reads nothing" in patterns.message
    patterns.n.value = 5
    assert "1 <= N <= M, got 5:4" in patterns.message
    patterns.apply(n=16, m=16, layer=1)
    assert patterns.message == ""
    assert patterns.frame("mask_map")["masked_weight"].notna().all()
    assert patterns.frame().set_index("kept")["accuracy"].nunique() == 1
    with pytest.raises(Refusal, match="the output layer stays dense"):
        live.nm_now(network, 2, 4, layer=2)


def test_a_short_search_ends_with_the_dense_network_and_three_starts() -> None:
    found = live.search_now(rounds=2, steps=25)
    assert found.accuracy.sizes == {"variant": 4, "step": 2}
    assert "25.1%" in found.attrs["note"] or "25.3%" in found.attrs["note"] or "25.6%" in found.attrs["note"]
    start = found.accuracy.sel(step=0)
    assert start.sel(variant="ticket") > start.sel(variant="random places")
