"""One process of a gloo group: watches its share of the batches, merges, writes what it got.

python merging.py RANK RENDEZVOUS OUT ddp|fsdp
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from gatescope import records
from gatescope.errors import Refusal
from gatescope.gates import GateSpec
from gatescope.layers import AttentionSpec, MLPSpec, MoESpec
from gatescope.models import LMConfig, TinyLM
from gatescope.probes import PROBES, LogitLens, Massive, Routing
from gatescope.scope import Scope
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

MLPS = {"dense": MLPSpec(kind="gelu", hidden=24), "experts": MoESpec(experts=4, k=2, hidden=12)}
#: Batches of each process. DDP without gradients may share unevenly; under FSDP every pass gathers weights from all.
SHARES = {"ddp": ((0, 2), (1,)), "fsdp": ((0,), (1,))}


def model(kind: str) -> TinyLM:
    """The same weights in every process."""
    attention = AttentionSpec(n_heads=4, n_kv_heads=2, head_dim=8, gate=GateSpec(position="sdpa"), sink="learned")
    return TinyLM(LMConfig(vocab=19, d_model=16, n_layers=2, attention=attention, mlp=MLPS[kind]))


def batches() -> list[torch.Tensor]:
    """Three batches of tokens."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(19, shape, generator=generator) for shape in ((3, 11), (2, 7), (1, 13))]


def probes(built: TinyLM) -> list:
    """One of every kind that the model has sites for."""
    kinds = [kind for kind in PROBES.values() if kind.sites <= built.tap_sites]
    return [kind(built.readout) if kind is LogitLens else kind() for kind in kinds]


def _main(rank: int, rendezvous: str, out: Path, way: str) -> None:
    torch.set_num_threads(1)
    limit = timedelta(seconds=60)
    distributed.init_process_group("gloo", f"file://{rendezvous}", limit, world_size=2, rank=rank)
    for kind in MLPS:
        _merge(kind, rank, out, way)
    built = model("experts")
    for kept in (Massive(keep=True), Routing(keep=True)):
        with torch.no_grad(), Scope(built, [kept]) as scope:
            built(batches()[2])
        _refused(lambda scope=scope: scope.merged(), "leave keep=True to one process", out / f"keep-{rank}")
    different = Scope(built, [Massive()] if rank else [Routing()])
    _refused(different.merged, "the same probes in every process", out / f"different-{rank}")
    # A group that dies with DDP's reducer joins its thread while it holds the interpreter's lock; the thread wants it.
    gc.collect()
    distributed.destroy_process_group()


def _merge(kind: str, rank: int, out: Path, way: str) -> None:
    built = model(kind)
    called = fully_shard(built, mesh=init_device_mesh("cpu", (2,))) if way == "fsdp" else DistributedDataParallel(built)
    with torch.no_grad(), Scope(built, probes(built)) as scope:
        for index in SHARES[way][rank]:
            called(batches()[index])
    file = records.save(scope.merged().record(created=False), out / f"{kind}-{rank}.nc")
    assert scope.merged().record(created=False).equals(records.load(file))


def _refused(act: Callable[[], object], words: str, mark: Path) -> None:
    with pytest.raises(Refusal, match=words):
        act()
    mark.touch()


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4])
