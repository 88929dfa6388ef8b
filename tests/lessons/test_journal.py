"""The learner's progress file: two notebooks at once, a full disk, and lines that are no notes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gatescope_lessons import journal
from gatescope_lessons.predictions import predict

_MANY = """
import sys
from gatescope_lessons import journal
sys.stdin.read(1)
for number in range(200):
    assert journal.note("exercise", sys.argv[1], lesson="l01", status="passed", detail="x" * number) == ""
"""
#: The file may grow by ten bytes, and no further: what a full disk does to an append.
_FULL = """
import resource, sys
from gatescope_lessons import journal
size = journal.journal_path().stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, resource.RLIM_INFINITY))
print(journal.note("exercise", "second", status="passed"))
"""


def run(code: str, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_notebooks_note_at_once_and_no_line_is_torn(progress: Path) -> None:
    both = [run(_MANY, name) for name in ("first", "second")]
    for one in both:
        one.stdin.write("x")
        one.stdin.close()
    assert [one.wait(60) for one in both] == [0, 0]
    for one in both:
        one.stdout.close()
    notes = [json.loads(line) for line in progress.read_text().splitlines()]
    for name in ("first", "second"):
        assert [len(note["detail"]) for note in notes if note["name"] == name] == list(range(200))


def test_a_full_disk_is_told_with_the_next_step_and_the_file_stays_whole(progress: Path) -> None:
    journal.note("exercise", "first", status="passed")
    before = progress.read_bytes()
    said = run(_FULL).communicate(timeout=60)[0]
    assert said.startswith("progress not saved: ")
    assert f"free space on the disk of {progress.parent}, then run this cell again" in said
    assert progress.read_bytes() == before
    assert journal.note("exercise", "third", status="passed") == ""
    assert [note["name"] for note in journal.read(progress)] == ["first", "third"]


def test_a_full_disk_does_not_end_a_prediction(progress: Path, monkeypatch) -> None:
    def no_space(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    prediction = predict("full", "Does it fit?", ("yes", "no"))
    with monkeypatch.context() as full:
        full.setattr(os, "write", no_space)
        prediction.buttons.value = "yes"
    said = prediction.panel.children[-1].value
    assert "No space left on device" in said
    assert "Noted" not in said
    assert "and so it is" in prediction.reveal("yes").value
    assert progress.read_bytes() == b""
    prediction.buttons.value = "no"
    assert prediction.panel.children[-1].value == "Noted."


def test_a_line_after_a_torn_one_is_not_lost_with_it(progress: Path) -> None:
    progress.write_text('{"name": "a"}\n{"name": "b')
    journal.note("exercise", "c")
    assert [note["name"] for note in journal.read(progress)] == ["a", "c"]


@pytest.mark.parametrize("line", [b"[1, 2]", b"17", b"null", b"\xff\xfe\x00", b"{", b'"text"'])
def test_what_is_no_note_is_left_out(progress: Path, line: bytes) -> None:
    progress.write_bytes(b'{"name": "a"}\n' + line + b'\n{"name": "b"}\n')
    assert [note["name"] for note in journal.read(progress)] == ["a", "b"]
