"""The roofline: how fast a machine could do an op's least work, and whether its memory or its products set the limit.

Williams, Waterman and Patterson 2009. The ridge of a machine is its FLOP/s over its bytes/s; an op with fewer FLOPs a
byte waits for memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gatescope_kernels.ops._row import Op, Production
from gatescope_kernels.targets import Machine


@dataclass(frozen=True, slots=True)
class Bound:
    """One direction of one production on one machine. ``intensity`` and ``ridge`` in FLOPs a byte."""

    op: str
    production: str
    dtype: str
    direction: str
    target: str
    device: str
    flops: int
    bytes: int
    intensity: float
    ridge: float
    bound: str
    least_ms: float

    def line(self) -> str:
        """For a person to read."""
        work = f"{self.flops / 1e9:>10.2f} GFLOP {self.bytes / 1e6:>9.1f} MB {self.intensity:>8.1f} FLOP/B"
        limit = f"{self.bound} bound (ridge {self.ridge:.0f})"
        where = f"{self.production + ', ' + self.dtype:<40}{self.direction:<9}{self.target:<8}"
        return f"{where}{work}   {limit:<26}{self.least_ms:>9.4f} ms"


def bounds(op: Op, production: Production, machines: Iterable[Machine]) -> Iterator[Bound]:
    """Both directions of a production on each machine."""
    directions = {"forward": production.forward, "backward": production.backward}
    for machine in machines:
        rate, bandwidth = machine.tflops[production.dtype] * 1e12, machine.gigabytes_s * 1e9
        for direction, work in directions.items():
            if work is None:
                continue
            computing, moving = work.flops / rate, work.bytes / bandwidth
            yield Bound(
                op=op.name,
                production=production.case.name,
                dtype=str(production.dtype).removeprefix("torch."),
                direction=direction,
                target=machine.target.name,
                device=machine.device,
                flops=work.flops,
                bytes=work.bytes,
                intensity=work.flops / work.bytes,
                ridge=rate / bandwidth,
                bound="compute" if computing > moving else "memory",
                least_ms=1e3 * max(computing, moving),
            )
