"""Run by test_wheel.py in an environment that has the wheel and no checkout: what works there, and what is refused.

Prints one JSON object: what the toolkit measured, and of every subcommand its exit code and all its words.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback
from pathlib import Path

import gatescope
import torch
from gatescope import cli, records
from gatescope.layers.attention import AttentionSpec
from gatescope.models.tiny_lm import LMConfig, TinyLM
from gatescope.paths import cache_dir
from gatescope.probes import Entropy, Sinks
from gatescope.scope import Scope


def scanned() -> dict[str, object]:
    """A tiny model under two probes; its record written and read."""
    torch.manual_seed(0)
    model = TinyLM(LMConfig(16, 16, 1, AttentionSpec(2, 2, 8), None))
    for seed in (0, 1):
        with Scope(model, probes=[Sinks(), Entropy()]) as scope, torch.no_grad():
            model(torch.randint(16, (2, 8), generator=torch.Generator().manual_seed(seed)))
        records.save(scope.record(), Path(f"record{seed}.nc"))
    read = records.load(Path("record0.nc"))
    return {"first_attention": float(read.first_attention.mean()), "commit": read.attrs["commit"]}


def asked(*words: str) -> dict[str, object]:
    """One subcommand: exit code, and what it said; a traceback is a code of -1."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = cli.main(words)
        except SystemExit as error:
            code = error.code
        except Exception:
            code = -1
            traceback.print_exc()
    return {"code": code, "said": said.getvalue()}


if __name__ == "__main__":
    found = {"file": gatescope.__file__, "cache": str(cache_dir()), "scan": scanned()}
    found["asked"] = {line: asked(*line.split()) for line in json.loads(sys.argv[1])}
    print(json.dumps(found))
