"""Points over several processes, as torchrun starts them."""

from __future__ import annotations

import pytest
from gatescope.errors import Refusal
from gatescope.studies import Metric, expand
from gatescope.studies.engine import run
from gatescope.studies.executors import local


def test_two_processes_measure_one_point_and_a_failing_rank_fails_the_point(toy, store):
    study = toy(
        point="toy_points:measure_together",
        processes=2,
        metrics=(Metric(name="loss", variable="loss"),),
        grids=({"act": ("measure", "raise"), "seed": (0,)},),
    )
    grid = expand(study)
    summary = run(grid, store, local(1))
    assert [len(summary.measured), len(summary.crashed)] == [1, 1]
    # 10 + 10 + ranks 0 and 1, as rank 0 returned it.
    assert float(store.record(summary.measured[0]).loss) == 21.0
    assert "ZeroDivisionError: rank 1 divides by zero" in store.failures()[summary.crashed[0]]["error"]


def test_the_number_of_processes_is_part_of_the_address(toy):
    addresses = {expand(toy(processes=processes)).points[0].address for processes in (1, 2, 4)}
    assert len(addresses) == 3


def test_no_process_is_refused(toy):
    with pytest.raises(Refusal, match="processes of 1 or more"):
        toy(processes=0)
