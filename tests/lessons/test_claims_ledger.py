"""From a planted record to the verdict, the README and the lock; whatever is out of step is said."""

from __future__ import annotations

import math

import pytest
from gatescope import data, records
from gatescope.errors import DataError, Refusal
from gatescope_lessons import claims_ledger, run
from gatescope_lessons.claims_ledger import TERMS_ATTR
from gatescope_lessons.measure import measure
from gatescope_lessons.papers import load_claims

from .test_papers import PAPER

BEGIN, END = "<!-- claims:begin -->", "<!-- claims:end -->"
LAB = """
from gatescope import records
from gatescope.records import Quantity

RATIOS = [2.1, 1.9, 2.0]
RATIO = Quantity("ratio", ("seed",), units="1", long_name="ratio", formula="a / b", source="Euclid", baseline="1")


def measure(profile):
    assert profile == "full"
    return records.new({"ratio": RATIO.variable(RATIOS)})


MEASURE = measure
METRICS = {"ratio": lambda record: record["ratio"].values}
"""


@pytest.fixture
def ledger(demo, checkout, tmp_path):
    """A checkout whose demo lesson measures one claim of one paper."""
    checkout()
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "euclid.toml").write_text(PAPER)
    (tmp_path / "README.md").write_text(f"# Demo\n{BEGIN}\nold\n{END}\nAfter.\n")
    demo.write("lab.py", LAB)
    return Ledger(demo, tmp_path)


class Ledger:
    def __init__(self, demo, root):
        self.demo, self.readme, self.lock = demo, root / "README.md", root / "claims" / "verdicts.lock.toml"
        self.folder = root / "claims"

    @property
    def claims(self):
        return load_claims(self.folder)

    def plant(self, ratios):
        """Measure with these effects in place of the lab's."""
        self.demo.shelf.lab("l01_demo").RATIOS = ratios
        return measure(self.demo.shelf, "l01_demo", "full", self.claims)

    def rows(self):
        return claims_ledger.evaluate(self.demo.shelf, self.claims)

    def row(self):
        (row,) = self.rows()
        return row

    def problems(self):
        return claims_ledger.problems(self.rows(), self.readme, self.lock)

    def write(self):
        claims_ledger.write(self.rows(), self.readme, self.lock)


PLANTED = {
    "what the paper says": ([2.1, 1.9, 2.0], "shown"),
    "the opposite": ([0.4, 0.5, 0.45], "contradicted"),
    "nothing": ([0.95, 1.1, 1.0], "not shown at this scale"),
    "too few": ([2.1, 1.9], "not measured"),
}


@pytest.mark.parametrize(("ratios", "outcome"), PLANTED.values(), ids=PLANTED)
def test_the_verdict_follows_the_record(ledger, ratios, outcome):
    path = ledger.plant(ratios)
    assert data.audit() == []
    assert records.load(path).attrs[TERMS_ATTR] == {"twice": ledger.claims[0].terms.digest()}
    assert ledger.row().verdict.outcome == outcome
    assert ledger.row().problem == ""


def test_without_a_record_a_claim_is_not_measured_and_that_is_no_problem(ledger):
    row = ledger.row()
    assert (row.verdict.outcome, row.verdict.reason, row.problem) == ("not measured", "no record", "")


def test_terms_changed_after_the_record_are_a_problem(ledger):
    ledger.plant([2.1, 1.9, 2.0])
    (ledger.folder / "euclid.toml").write_text(PAPER.replace("margin = 0.5", "margin = 0.1"))
    row = ledger.row()
    assert row.verdict.outcome == "not measured"
    assert "terms changed after the record; measure again: gatescope run l01_demo --profile full" in row.problem


def test_a_claim_added_after_the_record_is_a_problem(ledger):
    ledger.plant([2.1, 1.9, 2.0])
    (ledger.folder / "euclid.toml").write_text(PAPER.replace('id = "twice"', 'id = "new"'))
    assert "a record that does not know this claim" in ledger.row().problem


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("l01_demo", "l09_gone", "a lesson of this shelf"),
        ('"ratio"', '"quotient"', r"a metric in METRICS of l01_demo/lab.py \(ratio\)"),
    ],
)
def test_unknown_lessons_and_metrics_are_problems(ledger, old, new, told):
    (ledger.folder / "euclid.toml").write_text(PAPER.replace(old, new))
    with pytest.raises(AssertionError, match=told):
        assert ledger.row().problem == ""


def test_a_record_with_nan_and_a_damaged_record_are_problems(ledger):
    path = ledger.plant([2.1, math.nan, 2.0])
    assert "finite effects" in ledger.row().problem
    path.write_bytes(path.read_bytes() + b"x")
    assert "sha256" in ledger.row().problem


def test_write_brings_readme_and_lock_in_step(ledger):
    ledger.plant([2.1, 1.9, 2.0])
    assert len(ledger.problems()) == 2
    ledger.write()
    assert ledger.problems() == []
    readme = ledger.readme.read_text()
    assert readme.startswith(f"# Demo\n{BEGIN}\n| paper |")
    assert readme.endswith(f"{END}\nAfter.\n")
    assert "[Euclid 2025](https://arxiv.org/abs/2501.00001), table 1" in readme
    assert "2 [1.75, 2.25] against 1, 3 seeds: small numbers | *shown* |" in readme
    assert 'verdict = "shown"' in ledger.lock.read_text()


@pytest.mark.parametrize("ratios", [[0.4, 0.5, 0.45], [2.3, 2.1, 2.2]], ids=["a flipped verdict", "another number"])
def test_a_changed_record_is_seen_until_somebody_looks(ledger, ratios):
    ledger.plant([2.1, 1.9, 2.0])
    ledger.write()
    ledger.plant(ratios)
    assert any("look at what changed" in problem for problem in ledger.problems())
    ledger.write()
    assert ledger.problems() == []


def test_nothing_is_written_while_a_verdict_has_a_problem(ledger):
    ledger.plant([2.1, math.nan, 2.0])
    with pytest.raises(Refusal, match="verdicts without problems"):
        ledger.write()
    assert "old" in ledger.readme.read_text()
    assert not ledger.lock.exists()


@pytest.mark.parametrize("text", [None, "no marks", f"{BEGIN}\n{END}\n{BEGIN}\n{END}"])
def test_a_readme_without_one_place_for_the_table_is_said(ledger, text):
    ledger.readme.unlink() if text is None else ledger.readme.write_text(text)
    assert any("add the two marks" in problem for problem in ledger.problems())
    with pytest.raises(DataError, match="add the two marks"):
        ledger.write()


def test_a_bar_in_a_statement_does_not_break_the_table(ledger):
    (ledger.folder / "euclid.toml").write_text(PAPER.replace("Twice is more.", "|v_0| is small."))
    assert "\\|v_0\\| is small." in claims_ledger.readme_table(ledger.rows())


def test_the_terminal_table_names_everything(ledger):
    ledger.plant([2.1, 1.9, 2.0])
    head, line = claims_ledger.terminal_table(ledger.rows()).splitlines()
    assert head.split() == ["paper", "claim", "where", "measured", "verdict"]
    assert line.startswith("Euclid 2025  twice  table 1  2 [1.75, 2.25] against 1, 3 seeds  shown")


def test_a_run_keeps_its_record_and_only_the_full_profile_renews_the_claims(ledger, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "repo_root", lambda: tmp_path)
    ledger.demo.write("lab.py", LAB.replace('assert profile == "full"', "pass"))
    run._measure(ledger.demo.shelf, "l01_demo", "quick", tmp_path / "runs")
    assert records.load(tmp_path / "runs" / "l01_demo" / "record.nc").attrs["profile"] == "quick"
    assert "measured/l01_demo.nc" not in data.rows()
    run._measure(ledger.demo.shelf, "l01_demo", "full", tmp_path / "runs")
    assert records.load(tmp_path / "runs" / "l01_demo" / "record.nc").attrs["profile"] == "full"
    assert "measured/l01_demo.nc" in data.rows()


def test_a_lesson_without_measure_is_refused(ledger):
    ledger.demo.write("lab.py", "METRICS = {}")
    with pytest.raises(Refusal, match=r"MEASURE in its lab\.py"):
        measure(ledger.demo.shelf, "l01_demo", "full", ledger.claims)


def test_readme_and_lock_of_this_project_are_in_step():
    assert claims_ledger.problems(claims_ledger.evaluate()) == []
