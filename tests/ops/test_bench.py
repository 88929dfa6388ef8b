"""The bench compares before it times, says what it ran on, and shows a loss."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import gatescope_kernels.bench as bench
import pytest
import torch
from gatescope_kernels import Refusal
from gatescope_kernels.bench import COMMAND, Contest, Peer, contests, hold
from gatescope_kernels.ops._table import OPS


def contest(theirs: dict[str, torch.Tensor], op: str = "copy") -> Contest:
    return Contest(op, "copying", "T=3", "float32", "cpu", lambda: {"out": torch.ones(3)}, {"other": lambda: theirs})


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    COMMAND.configure(parser)
    return parser.parse_args(words)


def test_equal_results_are_timed() -> None:
    ours, theirs = hold(contest({"out": torch.ones(3)}), rounds=3)
    assert (ours.contestant, theirs.contestant) == ("gatescope", "other")
    assert ours.ratio == 1
    assert theirs.ratio == pytest.approx(ours.median_ms / theirs.median_ms)
    assert theirs.compared == ("out",)
    assert theirs.torch == torch.__version__


def test_memory_is_what_a_contestant_makes_and_not_what_was_there() -> None:
    x = torch.ones(1 << 18)
    lean, wasteful = (
        Contest("sum", "adding", "n=2^18", "float32", "cpu", run, {"other": run})
        for run in (lambda: {"out": x[:4].view(2, 2) + 1}, lambda: {"out": (x + 1).exp()[:4]})
    )
    assert hold(lean, rounds=1)[0].peak_mib == 16 / 2**20
    assert hold(wasteful, rounds=1)[0].peak_mib == 2


def test_a_long_contest_has_fewer_rounds_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_seconds", lambda *_: 6.0)
    assert {timing.rounds for timing in hold(contest({"out": torch.ones(3)}), rounds=11)} == {5}
    monkeypatch.setattr(bench, "_seconds", lambda *_: 600.0)
    assert {timing.rounds for timing in hold(contest({"out": torch.ones(3)}), rounds=11)} == {3}


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ({"out": torch.full((3,), 1.01)}, "out of other within 1e-04"),
        ({"out": torch.full((3,), torch.nan)}, "got nan"),
        ({"loss": torch.ones(3)}, "both compute"),
    ],
)
def test_different_results_are_not_timed(theirs: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        hold(contest(theirs), rounds=1)


def test_a_peer_is_timed_where_it_is_installed_and_named_where_it_is_not() -> None:
    ones = {"out": torch.ones(3)}
    peers = {"here": Peer("torch", "torch.nn", lambda: ones), "elsewhere": Peer("no-such", "no_such", lambda: ones)}
    ours, other, here = hold(replace(contest(ones), peers=peers), rounds=1)
    assert [timing.contestant for timing in (ours, other, here)] == ["gatescope", "other", "here"]
    assert (ours.absent, here.absent) == (("no-such",), ())


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_contests(op: str) -> None:
    assert list(contests("cpu", quick=True, op=op))


def test_gated_attention_agrees_with_its_baselines() -> None:
    for each in contests("cpu", quick=True, op="gated_attention"):
        if "T=1024" not in each.shape:
            assert len(hold(each, rounds=1)) == 1 + len(each.baselines)


def test_command_writes_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    slow = contest({"out": torch.ones(3)})
    seconds = iter([1.0, 1.0, *[3.0, 1.0] * 5])
    monkeypatch.setattr(bench, "_seconds", lambda *_: next(seconds))
    monkeypatch.setattr(bench, "contests", lambda device, quick, op: [slow])
    assert COMMAND.run(arguments("--quick", "--threads", "1", "--json", str(tmp_path / "times.json"))) == 0
    ours, theirs = json.loads((tmp_path / "times.json").read_text())
    assert (ours["median_ms"], theirs["median_ms"], theirs["ratio"]) == (3000, 1000, 3)
    assert theirs.keys() >= {"device", "threads", "torch", "python", "shape", "dtype"}
    assert [path.name for path in tmp_path.iterdir()] == ["times.json"]
    assert "we are 3.00x slower" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--op", "attentoin"), "--op one of .*gated_attention"),
        (("--threads", "0"), "--threads >= 1"),
        (("--json", "no/such/folder/times.json"), "folder that exists"),
    ],
)
def test_command_refuses(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(Refusal, match=message):
        COMMAND.run(arguments(*words))
