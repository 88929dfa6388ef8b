"""A file the learner changed is never overwritten; one they left alone may be."""

from __future__ import annotations

from pathlib import Path

import learner_copies
import pytest
from learner_copies import copy_notebooks


@pytest.fixture
def shelf(tmp_path: Path) -> tuple[Path, Path]:
    source, work = tmp_path / "notebooks", tmp_path / "work"
    (source / "solutions").mkdir(parents=True)
    (source / "01_a.ipynb").write_text("one")
    (source / "solutions" / "01_a.ipynb").write_text("solved")
    return source, work


def outcomes(source: Path, work: Path) -> dict[str, str]:
    return {copied.name: copied.outcome for copied in copy_notebooks(source, work)}


def test_first_copy_takes_both_editions_and_the_second_changes_nothing(shelf: tuple[Path, Path]) -> None:
    source, work = shelf
    assert outcomes(source, work) == {"01_a.ipynb": "new", "solutions/01_a.ipynb": "new"}
    assert (work / "solutions" / "01_a.ipynb").read_text() == "solved"
    assert set(outcomes(source, work).values()) == {"current"}


@pytest.mark.parametrize(
    ("mine", "update", "outcome", "kept", "offered"),
    [
        (None, "two", "refreshed", "two", None),
        ("mine", None, "kept", "mine", None),
        ("mine", "two", "offered", "mine", "two"),
        ("two", "two", "current", "two", None),
    ],
)
def test_what_happens_to_a_copy(
    shelf: tuple[Path, Path], mine: str | None, update: str | None, outcome: str, kept: str, offered: str | None
) -> None:
    source, work = shelf
    copy_notebooks(source, work)
    if mine is not None:
        (work / "01_a.ipynb").write_text(mine)
    if update is not None:
        (source / "01_a.ipynb").write_text(update)
    assert outcomes(source, work)["01_a.ipynb"] == outcome
    assert (work / "01_a.ipynb").read_text() == kept
    beside = work / "01_a.update.ipynb"
    assert (beside.read_text() if beside.exists() else None) == offered


def test_an_update_is_offered_once_and_a_worked_in_offer_is_the_learners_too(shelf: tuple[Path, Path]) -> None:
    source, work = shelf
    copy_notebooks(source, work)
    (work / "01_a.ipynb").write_text("mine")
    (source / "01_a.ipynb").write_text("two")
    copy_notebooks(source, work)
    (work / "01_a.update.ipynb").unlink()
    assert outcomes(source, work)["01_a.ipynb"] == "kept", "a declined offer must not come back"
    (work / "01_a.update.ipynb").write_text("my notes on the update")
    (source / "01_a.ipynb").write_text("three")
    offered = next(copied for copied in copy_notebooks(source, work) if copied.outcome == "offered")
    assert offered.offered_as == "01_a.update2.ipynb"
    assert (work / "01_a.update.ipynb").read_text() == "my notes on the update"


def test_an_untouched_offer_is_replaced_by_the_next(shelf: tuple[Path, Path]) -> None:
    source, work = shelf
    copy_notebooks(source, work)
    (work / "01_a.ipynb").write_text("mine")
    for update in ("two", "three"):
        (source / "01_a.ipynb").write_text(update)
        copy_notebooks(source, work)
    assert (work / "01_a.update.ipynb").read_text() == "three"
    assert not (work / "01_a.update2.ipynb").exists()


@pytest.mark.parametrize("ledger", [None, "not json"])
def test_without_a_ledger_a_differing_file_counts_as_the_learners(shelf: tuple[Path, Path], ledger: str | None) -> None:
    source, work = shelf
    work.mkdir()
    (work / "01_a.ipynb").write_text("from somewhere")
    if ledger is not None:
        (work / learner_copies.LEDGER).write_text(ledger)
    assert outcomes(source, work)["01_a.ipynb"] == "offered"
    assert (work / "01_a.ipynb").read_text() == "from somewhere"


def test_a_deleted_copy_comes_back_and_checkpoints_stay_out(shelf: tuple[Path, Path]) -> None:
    source, work = shelf
    (source / ".ipynb_checkpoints").mkdir()
    (source / ".ipynb_checkpoints" / "01_a-checkpoint.ipynb").write_text("old")
    copy_notebooks(source, work)
    (work / "01_a.ipynb").unlink()
    assert outcomes(source, work) == {"01_a.ipynb": "new", "solutions/01_a.ipynb": "current"}
