"""Lesson 15: what a kernel touches is counted right, memory holds, the panel answers at its ends."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import torch
from gatescope import views
from gatescope.errors import Refusal
from gatescope_lessons.l15_fused_gate_kernel import lab
from gatescope_lessons.l15_fused_gate_kernel.diagnosis import Tiling
from gatescope_lessons.l15_fused_gate_kernel.interpreter import interpreter
from gatescope_lessons.l15_fused_gate_kernel.memory import Memory, offsets
from gatescope_lessons.l15_fused_gate_kernel.oracles import causal_scores, gated_in_the_loop, online_average
from gatescope_lessons.l15_fused_gate_kernel.panel import _SIDES, access_panel


@pytest.fixture
def interpreted(require) -> None:
    require("triton")
    try:
        interpreter()
    except Refusal as refusal:
        pytest.skip(f"Triton compiles in this process, for a GPU; run this file with TRITON_INTERPRET=1 ({refusal})")


def counts(ds, kind: str) -> dict[str, int]:
    total = ds[kind].sum("program").where(ds["inside"], 0)
    return {name: int(total[(ds["tensor"] == name).values].sum()) for name in dict.fromkeys(ds["tensor"].values)}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(("rows", "columns", "tile"), [(10, 12, (4, 8)), (1, 1, (16, 32)), (5, 7, (1, 1))])
def test_fusing_saves_the_way_to_memory_and_back(rows, columns, tile) -> None:
    sizes = {"rows": rows, "columns": columns, "tile_rows": tile[0], "tile_columns": tile[1]}
    fused, unfused = (lab.watch_gate(lab.Setting(version, **sizes)) for version in lab.VERSIONS[:2])
    n = rows * columns
    assert counts(fused, "reads") == {"logit": n, "y": n, "out": 0}
    assert counts(fused, "writes") == {"logit": 0, "y": 0, "out": n}
    assert counts(unfused, "reads") == {"logit": n, "gate": n, "y": n, "out": 0}
    assert counts(unfused, "writes") == {"logit": 0, "gate": n, "y": 0, "out": n}
    table = lab.bytes_table({"two kernels": unfused, "fused": fused})
    assert table["bytes moved"].tolist() == [5 * 4 * n, 3 * 4 * n]
    assert table["share"].iloc[1] == 0.6


@pytest.mark.usefixtures("interpreted")
def test_the_mistakes_that_can_be_watched_show() -> None:
    said = {version: views.alt_text(views.access_map(lab.watch_gate(lab.Setting(version)))) for version in lab.VERSIONS}
    assert not any(word in said["fused"] for word in ("outside", "more than once", "never touched"))
    assert "read around y, outside every tensor" in said["fused, no mask"]
    assert "written around out, outside every tensor" in said["fused, no mask"]
    assert "of y never touched" in said["fused, wrong stride"]
    assert "of out written more than once" in said["fused, tiles that overlap"]


@pytest.mark.usefixtures("interpreted")
def test_keys_are_read_by_every_tile_that_may_see_them() -> None:
    T, D, tile = 20, 8, 8
    early, late, after = (
        lab.watch_attention(gate, T, D, tile, tile, early=early)
        for gate, early in (("fused", True), ("fused", False), ("after", True))
    )
    assert counts(early, "reads")["k"] == D * (8 + 16 + 20)
    assert counts(late, "reads")["k"] == D * 3 * T
    assert counts(after, "writes") == counts(early, "writes") | {"y": T * D}
    assert counts(after, "reads") == counts(early, "reads") | {"y": T * D}


@pytest.mark.usefixtures("interpreted")
def test_keeping_the_gate_costs_a_write_and_saves_no_read() -> None:
    again, kept = (lab.watch_training(keep, n=10, block=4) for keep in (False, True))
    assert sum(counts(kept, "reads").values()) == sum(counts(again, "reads").values()) == 50
    assert sum(counts(kept, "writes").values()) == sum(counts(again, "writes").values()) + 10 == 40


@pytest.mark.usefixtures("interpreted")
def test_memory_keeps_strides_gives_nan_outside_and_lets_nothing_be_written_there() -> None:
    from gatescope_lessons.l15_fused_gate_kernel import kernels

    y, logit, out = torch.randn(5, 8)[:, :6], torch.randn(6, 5).T, torch.zeros(5, 6)
    memory = Memory({"y": y, "logit": logit, "out": out})
    assert [x.stride() for x in memory.tensors.values()] == [y.stride(), logit.stride(), out.stride()]
    strides = (*y.stride(), *logit.stride(), *out.stride())
    memory.run(kernels.gate_tile, (2, 1), "y", "logit", "out", 5, 6, *strides, BT=4, BV=8, FLAW="stride")
    assert memory.outside("read")
    assert memory.tensors["out"].isnan().any()
    assert torch.equal(memory.tensors["y"], y)
    assert (memory.bytes("read", "y"), memory.bytes("write")) == (120, 120)


def test_offsets_follow_the_strides() -> None:
    assert offsets(torch.zeros(2, 5)[:, :3]).tolist() == [0, 1, 2, 5, 6, 7]
    assert offsets(torch.zeros(3, 2).T).tolist() == [0, 2, 4, 1, 3, 5]


def test_a_tiling_without_a_mask_passes_the_end() -> None:
    tiling = Tiling((3, 2), (2, 2))
    assert tiling.grid == (2, 1)
    assert tiling.touched((2, 1)) == {0: {0, 1, 2, 3}, 1: {4, 5}}
    assert tiling.touched((2, 1), (False, True))[1] == {4, 5, 6, 7}


def test_the_oracles_are_attention_and_flaws_are_not() -> None:
    q, k, v = torch.randn(3, 9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores, gate = causal_scores(q, k, 0.5), v.sigmoid()
    right = scores.softmax(-1) @ v
    torch.testing.assert_close(online_average(scores, v, 4), right)
    for flaw in ("sum", "average", "both", "upside down", "no division", "last"):
        assert not torch.allclose(online_average(scores, v, 4, flaw), right, atol=1e-3), flaw
    assert not torch.allclose(online_average(q, torch.randn(4, 2).double(), 3, "padding"), q.softmax(-1)[:, :2])
    torch.testing.assert_close(gated_in_the_loop(scores, v, gate, 9, 9, early=True), right * gate)
    assert not torch.allclose(gated_in_the_loop(scores, v, gate, 9, 4, early=True), right * gate, atol=1e-3)


@pytest.mark.usefixtures("interpreted")
def test_the_panel_answers_at_the_ends_of_its_controls() -> None:
    panel = access_panel(rows=3, columns=5)
    ends = itertools.product((1, 24), (1, 32), (_SIDES[-1],), (_SIDES[0], _SIDES[-1]))
    for rows, columns, tile_rows, tile_columns in ends:
        panel.apply(rows=rows, columns=columns, tile_rows=tile_rows, tile_columns=tile_columns)
        assert panel.message == ""
        assert panel.frame()["bytes moved"].tolist() == [12 * rows * columns, 20 * rows * columns]
    for version, program in itertools.product(lab.VERSIONS, (-1, 0, panel.program.max)):
        panel.apply(version=version, program=program, rows=3, columns=3, tile_rows=2, tile_columns=2)
        assert panel.message == ""
        assert len(panel.frame()) == (2 if version in lab.VERSIONS[:2] else 3)
    panel.apply(version="fused", rows=10, columns=12, tile_rows=4, tile_columns=8)
    assert panel.frame()["programs"].tolist() == [6, 12]
    np.testing.assert_allclose(panel.frame()["busy"], 120 / 192)
    panel.reset()
    assert (panel.rows.value, panel.columns.value) == (3, 5)


@pytest.mark.usefixtures("interpreted")
def test_hundreds_of_programs_are_drawn() -> None:
    found = lab.watch_gate(lab.Setting("fused", 24, 32, 1, 1))
    assert found.sizes["program"] == 768
    assert "by 768 programs" in views.access_map(found, 767).alt_text


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"version": "faster"}, "version in"), ({"tile_rows": 3}, "power of two"), ({"rows": 0}, "1 row and 1 column")],
)
def test_settings_that_make_no_gate_are_refused(settings, told) -> None:
    with pytest.raises(Refusal, match=told):
        lab.Setting(**settings)


def test_attention_knows_two_places_of_the_gate() -> None:
    with pytest.raises(Refusal, match="gate 'fused' or 'after'"):
        lab.watch_attention("before")


def test_a_process_that_compiles_is_told_to_begin_anew(require, monkeypatch) -> None:
    require("triton")
    import triton.language as tl

    monkeypatch.setattr(tl, "sigmoid", lambda x: x)
    assert "triton" in sys.modules
    with pytest.raises(Refusal, match="restart the kernel and run this cell first"):
        interpreter()
