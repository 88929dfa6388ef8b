"""Two gloo processes, each with its own batches, hold the record of one process that saw them all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import xarray as xr
from gatescope import records
from gatescope.errors import Refusal
from gatescope.probes import PROBES, Massive
from gatescope.scope import Scope

from . import merging

WORKER = Path(merging.__file__)


@pytest.fixture(scope="module", params=merging.SHARES)
def merged(request, tmp_path_factory) -> tuple[str, Path]:
    """What the processes of one way to share wrote."""
    out = tmp_path_factory.mktemp(request.param)
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(out / "rendezvous"), str(out), request.param],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for worker in workers:
            _, said = worker.communicate(timeout=150)
            assert worker.returncode == 0, said
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    return request.param, out


def alone(way: str, kind: str) -> xr.Dataset:
    """One process that sees every batch."""
    model = merging.model(kind)
    with torch.no_grad(), Scope(model, merging.probes(model)) as scope:
        for share in merging.SHARES[way]:
            for index in share:
                model(merging.batches()[index])
    return scope.record(created=False)


@pytest.mark.parametrize("name", PROBES)
def test_the_record_is_that_of_one_process(merged, name: str) -> None:
    way, out = merged
    seen = 0
    for kind in merging.MLPS:
        wanted = alone(way, kind)
        for rank in range(2):
            found = records.load(out / f"{kind}-{rank}.nc")
            assert set(found.data_vars) == set(wanted.data_vars)
            for quantity in PROBES[name].quantities:
                if quantity.name in wanted:
                    seen += 1
                    xr.testing.assert_allclose(found[quantity.name], wanted[quantity.name], rtol=1e-6)
                    assert found[quantity.name].attrs.keys() == wanted[quantity.name].attrs.keys()
            for attr in ("n_samples", "n_tokens"):
                assert found.attrs[attr] == wanted.attrs[attr]
    assert seen


def test_maps_of_one_sequence_and_unlike_scopes_are_refused(merged) -> None:
    _, out = merged
    assert sorted(path.name for path in out.glob("different-*")) == ["different-0", "different-1"]
    assert sorted(path.name for path in out.glob("keep-*")) == ["keep-0", "keep-1"]


def test_a_single_process_is_told_what_to_do() -> None:
    with pytest.raises(Refusal, match="init_process_group"):
        Scope(merging.model("dense"), [Massive()]).merged()
