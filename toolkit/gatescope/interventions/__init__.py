"""Interventions: change a forward pass, beside a control that changes as much of something else.

    with ZeroDims([507], after_layers=11).on(model):
        changed = next_token_nll(model, tokens)
    with ZeroDims([507], after_layers=11).control(seed=0).on(model):
        control = next_token_nll(model, tokens)

An intervention that did not apply where it was told to is an error, never a silent no-op.
"""

from gatescope.interventions.attention import MaskKeys, WindowWithSinks
from gatescope.interventions.base import Draw, Intervention
from gatescope.interventions.blocks import BestBlocks, LatestBlocks, MeanBlocks, SparseBlocks
from gatescope.interventions.experts import DropExperts, RandomExperts
from gatescope.interventions.gates import BlendGates, ShuffledGates
from gatescope.interventions.hidden import ClampDims, SetDims, ZeroDims
from gatescope.interventions.sinks import AddSink
from gatescope.interventions.temperature import ScaleLogits, ShiftQueries

_TABLE = (
    ZeroDims,
    ClampDims,
    SetDims,
    MaskKeys,
    WindowWithSinks,
    AddSink,
    BlendGates,
    DropExperts,
    ScaleLogits,
    SparseBlocks,
)
INTERVENTIONS: dict[str, type[Intervention]] = {intervention.name: intervention for intervention in _TABLE}

__all__ = [
    "INTERVENTIONS",
    "AddSink",
    "BestBlocks",
    "BlendGates",
    "ClampDims",
    "Draw",
    "DropExperts",
    "Intervention",
    "LatestBlocks",
    "MaskKeys",
    "MeanBlocks",
    "RandomExperts",
    "ScaleLogits",
    "SetDims",
    "ShiftQueries",
    "ShuffledGates",
    "SparseBlocks",
    "WindowWithSinks",
    "ZeroDims",
]
