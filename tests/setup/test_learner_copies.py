"""A file the learner changed is never overwritten; one they left alone may be."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
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


@pytest.mark.parametrize("ledger", ["[1, 2]", "5", '{"01_a.ipynb": ', "\x00\x00"])
def test_a_damaged_ledger_costs_nobody_their_file(shelf: tuple[Path, Path], ledger: str) -> None:
    source, work = shelf
    copy_notebooks(source, work)
    (work / "01_a.ipynb").write_text("mine")
    (work / learner_copies.LEDGER).write_text(ledger)
    (source / "01_a.ipynb").write_text("two")
    assert outcomes(source, work) == {"01_a.ipynb": "offered", "solutions/01_a.ipynb": "current"}
    assert (work / "01_a.ipynb").read_text() == "mine"


def test_a_full_disk_leaves_every_copy_whole_and_the_next_time_goes_on(
    shelf: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, work = shelf
    copy_notebooks(source, work)
    for name in ("01_a.ipynb", "solutions/01_a.ipynb"):
        (source / name).write_text("two")
    whole = Path.write_bytes

    def half(path: Path, content: bytes) -> int:
        whole(path, content[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", half)
        with pytest.raises(OSError, match="No space left"):
            copy_notebooks(source, work)
    assert (work / "01_a.ipynb").read_text() == "one"
    assert list(work.rglob("*.tmp")) == []
    assert set(outcomes(source, work).values()) == {"refreshed"}


def test_what_a_killed_copy_left_is_no_hindrance(shelf: tuple[Path, Path]) -> None:
    source, work = shelf
    copy_notebooks(source, work)
    (work / ".01_a.ipynb.0a0a0a0a.tmp").write_text("ha")
    (work / "01_a.ipynb").unlink()
    assert outcomes(source, work)["01_a.ipynb"] == "new"
    assert (work / "01_a.ipynb").read_text() == "one"


def test_two_that_copy_at_once_leave_whole_files(shelf: tuple[Path, Path]) -> None:
    source, work = shelf
    for number in range(30):
        (source / f"{number:02d}_b.ipynb").write_text(f"{number}" * 5000)
    scripts = Path(learner_copies.__file__).parent
    code = (
        "import sys\nfrom pathlib import Path\nfrom learner_copies import copy_notebooks\n"
        "sys.stdin.read(1)\ncopy_notebooks(Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", code, str(source), str(work)]
    both = [subprocess.Popen(command, cwd=scripts, stdin=subprocess.PIPE) for _ in range(2)]
    for one in both:
        one.stdin.write(b"x")
        one.stdin.close()
    assert [one.wait(60) for one in both] == [0, 0]
    assert set(outcomes(source, work).values()) == {"current"}
    assert list(work.rglob("*.tmp")) == []
