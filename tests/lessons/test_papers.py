"""Claims are read from TOML with every key checked; the claims of this project are well formed."""

from __future__ import annotations

import pytest
from gatescope.errors import Refusal
from gatescope_lessons.papers import load_claims

PAPER = """
title = "On twice"
authors = "Euclid, Theon"
year = 2025
arxiv = "2501.00001"

[[claim]]
id = "twice"
statement = "Twice is more."
where = "table 1"
published = "2 against 1"
lesson = "l01_demo"
metric = "ratio"
direction = "greater"
null = 1.0
margin = 0.5
replicates = 3
replicate = "seed"
scale = "small numbers"
"""


def test_a_file_becomes_claims_with_their_paper_and_terms(tmp_path):
    (tmp_path / "euclid.toml").write_text(PAPER)
    (tmp_path / "verdicts.lock.toml").write_text("[twice]\nverdict = 'shown'\n")
    (claim,) = load_claims(tmp_path)
    assert (claim.id, claim.paper.key, claim.paper.short) == ("twice", "euclid", "Euclid 2025")
    assert (claim.terms.null, claim.terms.metric, claim.terms.replicates) == (1.0, "ratio", 3)


BAD = {
    "not TOML": ("year = 2025", "year = ", "TOML"),
    "a key missing": ('where = "table 1"\n', "", "no where"),
    "an unknown key": ('where = "table 1"', 'where = "table 1"\nverdict = "shown"', "unknown verdict"),
    "a paper without a year": ("year = 2025\n", "", "no year"),
    "an unknown direction": ('"greater"', '"more"', "direction"),
}


@pytest.mark.parametrize(("old", "new", "told"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused(tmp_path, old, new, told):
    (tmp_path / "euclid.toml").write_text(PAPER.replace(old, new))
    with pytest.raises((Refusal, TypeError), match=told):
        load_claims(tmp_path)


def test_two_claims_cannot_share_an_id(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text(PAPER)
    with pytest.raises(Refusal, match="an id of its own for every claim, got twice"):
        load_claims(tmp_path)


def test_the_claims_of_this_project_are_well_formed():
    claims = load_claims()
    assert claims
    for claim in claims:
        assert claim.statement.endswith("."), claim.id
        assert claim.paper.arxiv, claim.id
