"""Every system's code can be imported, its tests exist, its verdicts recompute, and the page says so."""

from __future__ import annotations

import pytest
from gatescope.errors import Refusal
from gatescope_lessons import systems
from gatescope_lessons.claims_ledger import evaluate
from gatescope_lessons.lesson_kit import own_shelf
from gatescope_lessons.marked import marked
from gatescope_lessons.systems import System, load_systems, page, standing, standings

ROWS = load_systems()
ROW = {"id": "x", "name": "X", "family": "f", "shows": "s"}


@pytest.fixture(scope="module")
def claims():
    return evaluate()


@pytest.mark.parametrize("system", ROWS, ids=[row.id for row in ROWS])
def test_what_a_row_names_is_there(system: System, claims) -> None:
    assert standing(system, claims).broken == ()


@pytest.mark.parametrize("system", [row for row in ROWS if row.claims], ids=[row.id for row in ROWS if row.claims])
def test_verdicts_recompute_from_committed_records(system: System, claims) -> None:
    found = standing(system, claims)
    assert [row.claim.id for row in found.claims if row.problem or row.verdict.outcome == "not measured"] == []


def test_every_claim_of_a_listed_paper_is_listed(claims) -> None:
    of_paper = {row.paper: set(row.claims) for row in ROWS if row.paper}
    for row in claims:
        if row.claim.paper.key in of_paper:
            assert row.claim.id in of_paper[row.claim.paper.key]


def test_the_page_is_the_one_computed_now() -> None:
    assert marked(systems.page_file(), "systems") == page(standings()), "run `gatescope systems --write`"


def test_a_bare_row_is_open_and_says_what_it_lacks(claims) -> None:
    found = standing(System(**ROW), claims)
    assert not found.closed
    assert found.lacks == tuple(systems._LACKS.values())
    assert "open: nothing of it stands" in page([found])
    taught = standing(System(**ROW, lesson="l02_one_gate_no_sink"), claims)
    assert "open: code in the toolkit, a test against ablation" in page([taught])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"code": ("gatescope.gates:NoSuchGate",)}, "no gatescope.gates:NoSuchGate"),
        ({"code": ("gatescope.no_such_room:Thing",)}, "no gatescope.no_such_room:Thing"),
        ({"differs": ("tests/lessons/test_systems.py::test_no_such",)}, "test_no_such"),
        ({"reference": ("tests/no_such_file.py::test_x",)}, "tests/no_such_file.py"),
        ({"claims": ("no-such-claim",)}, "no claim no-such-claim"),
        ({"claims": ("qiu-g1-loss",), "paper": "gu2024_sinks"}, "is of qiu2025_gated_attention"),
        ({"lesson": "l99_none"}, "no lesson l99_none"),
    ],
)
def test_what_is_named_in_vain_is_said(claims, changes: dict, words: str) -> None:
    found = standing(System(**ROW | changes), claims, own_shelf())
    assert not found.closed
    assert any(words in what for what in found.broken)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[system]]\nid = 'x'\nname = 'X'\nfamily = 'f'\n", "no shows"),
        ("[[system]]\nid = 'x'\nname = 'X'\nfamily = 'f'\nshows = 's'\ncodes = []\n", "unknown codes"),
        (2 * "[[system]]\nid = 'x'\nname = 'X'\nfamily = 'f'\nshows = 's'\n", "rename one"),
        ("[[system", "TOML"),
    ],
)
def test_wrong_files_are_refused(tmp_path, text: str, words: str) -> None:
    (tmp_path / "systems.toml").write_text(text)
    with pytest.raises(Refusal, match=words):
        load_systems(tmp_path / "systems.toml")
