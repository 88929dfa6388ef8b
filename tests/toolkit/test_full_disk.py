"""Every writer on a disk that fills: an error that names the next step, the old file whole, nothing left beside it.

The disk is a limit on the size of a file, which the operating system itself enforces, in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import json, resource, sys
from pathlib import Path
import numpy as np
import torch
from gatescope import checkpoints, records
from gatescope.errors import DataError
from gatescope.paths import atomic_write
from gatescope.records import Appended, Quantity
from gatescope.studies import Store
from gatescope.studies.expand import Point

folder = Path(sys.argv[1])
wide = Quantity("wide", ("token",), "1", "wide", "w", "test", "0")

def record(size):
    return records.new({"wide": wide.variable(np.random.default_rng(0).normal(size=size))})

def text(size):
    with atomic_write(folder / "text" / "page.html") as temporary:
        temporary.write_text("x" * 8 * size)

points = Store(folder / "study")
writers = {
    "text": text,
    "tensors": lambda size: checkpoints.write_tensors(folder / "tensors" / "t", {"w": torch.ones(size)}, {}),
    "record": lambda size: records.save(record(size), folder / "record" / "r.nc"),
    "rows": lambda size: Appended(folder / f"rows-{size}").append(record(size), 1),
    "points": lambda size: points.put(Point({"size": size}, f"a{size}"), record(size), {}),
}

def held():
    return {str(path.relative_to(folder)): path.read_bytes().hex() for path in folder.rglob("*") if path.is_file()}

for write in writers.values():
    write(20)
before = held()
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, resource.RLIM_INFINITY))
told = {}
for name, write in writers.items():
    try:
        write(100_000)
        told[name] = "written"
    except DataError as error:
        told[name] = str(error)
after = held()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for write in writers.values():
    write(100_000)
torn = sorted(name for name, content in before.items() if after.get(name) != content)
left = sorted(name for name in after if name not in before and not name.startswith("rows-"))
print(json.dumps({"told": told, "torn": torn, "left": left}))
"""
WRITERS = ("text", "tensors", "record", "rows", "points")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder: Path = tmp_path_factory.mktemp("disk")
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(folder)], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_named_with_the_next_step(found: dict, name: str) -> None:
    assert "File too large" in found["told"][name]
    assert "free space" in found["told"][name]


def test_what_was_there_stays_whole_and_nothing_is_left_beside_it(found: dict) -> None:
    assert found["torn"] == []
    assert found["left"] == []
