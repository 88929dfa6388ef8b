"""The toy study, for tests of other rooms as well."""

from __future__ import annotations

from gatescope.studies import Metric, Study

TOY = Study(
    name="toy",
    title="A toy",
    point="toy_points:measure",
    code=("toy_points",),
    grids=({"kind": ("plain", "gated"), "seed": (0, 1, 2)},),
    control={"kind": "plain"},
    match=("rate",),
    metrics=(
        Metric(name="loss", variable="loss"),
        Metric(name="first", variable="first_attention", over={"layer": "max", "head": "max"}),
    ),
)
