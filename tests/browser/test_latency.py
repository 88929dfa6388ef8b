"""The tool that times lessons, on the lightest of them: that it measures, not how fast this machine is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from gatescope_lessons.l07_learning_what_not_to_read import texts
from gatescope_lessons.lesson_kit import own_shelf

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import latency


def test_a_lesson_is_timed(notebook):
    found = latency.timed(notebook, "l00_start", own_shelf().lesson("l00_start"), 4)
    assert found.first_picture > 0
    assert len(found.moves) == 4
    assert min(found.moves) > 0
    assert found.moves.count(found.p50) == 1
    assert found.p95 == max(found.moves)
    assert json.loads(json.dumps(latency.asdict(found)))["lesson"] == "l00_start"
    assert notebook.alerts() == []


def test_quantiles_are_values_that_were_measured():
    assert latency.quantile([3.0, 1.0, 2.0, 4.0], 0.5) == 2.0
    assert latency.quantile([float(n) for n in range(1, 21)], 0.95) == 19.0
    assert latency.quantile([], 0.5) is None


@pytest.mark.parametrize(("words", "told"), [(["99"], "one of the lessons"), (["0", "--moves", "0"], "--moves 1")])
def test_what_cannot_be_timed_is_refused_before_anything_starts(words, told, capsys):
    assert latency.main(words) == 2
    assert told in capsys.readouterr().err


def test_the_lessons_with_the_larger_model_are_lessons():
    assert set(latency.SMOLLM2) <= set(own_shelf().folders())
    assert latency.SMOLLM2["l07_learning_what_not_to_read"] == texts.LENGTH
