"""One point over several processes, started from Python as torchrun does; the record of rank 0 comes back."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gatescope import specs
from gatescope.studies.expand import resolve

if TYPE_CHECKING:
    import xarray as xr


def measure_together(point: str, config: Mapping[str, Any], processes: int) -> xr.Dataset:
    """Call the point function in ``processes`` processes of one torch.distributed group; the record of rank 0 counts.

    The group stands when the function is called: NCCL where every process has a GPU of its own, gloo elsewhere; the
    GPU of a process is torch's current device. Raises what torchrun raises when a process fails, which then ends all.
    """
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",
    )
    return elastic_launch(launch, _rank)(point, dict(config), list(sys.path))[0]


def _rank(point: str, config: Mapping[str, Any], path: list[str]) -> xr.Dataset | None:
    sys.path[:] = path
    import torch
    from torch import distributed

    local, size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    on_gpu = torch.cuda.device_count() >= size
    if on_gpu:
        torch.cuda.set_device(local)
    torch.set_num_threads(1)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        function, config_class = resolve(point)
        record = function(specs.from_dict(config_class, config))
        return record.load() if distributed.get_rank() == 0 else None
    finally:
        distributed.destroy_process_group()


__all__ = ["measure_together"]
