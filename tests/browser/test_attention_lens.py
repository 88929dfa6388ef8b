"""The attention lens on the page: hover, hold, keys and the map, on a text of 2,000 tokens."""

from __future__ import annotations

import nbformat
import pytest
from gatescope_lessons.editions import METADATA
from playwright.sync_api import expect

CELL = """
import torch
from gatescope import panels
from gatescope.models import AttentionSpec, LMConfig, MLPSpec, TinyLM
from gatescope.probes import AttentionRows
from gatescope.taps import attached

config = LMConfig(256, 32, 3, AttentionSpec(n_heads=4, n_kv_heads=2, head_dim=8), MLPSpec("gelu", 64))
model = TinyLM(config, init_seed=0).eval()

def measure(text):
    data = text.encode()[:2000]
    rows = AttentionRows()
    with torch.no_grad(), attached(model, rows):
        model(torch.tensor([list(data)]))
    return rows, [chr(byte) for byte in data]

lens = panels.attention_lens(None, "Where do heads look?\\n" * 100, measure=measure)
lens
"""


@pytest.fixture
def page(notebook, lab):
    cells = [nbformat.v4.new_code_cell(CELL.strip())]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=METADATA), lab.root / "lens.ipynb")
    notebook.open("lens.ipynb")
    notebook.run_all()
    notebook.wait_done()
    assert notebook.error_outputs() == []
    expect(notebook.page.locator(".gs-lens-page [role=option]")).to_have_count(2000)
    return notebook


def token(page, place):
    return page.page.locator(f'.gs-lens-page [data-place="{place}"]')


def coloured(page):
    """Places that have a colour."""
    script = "all => all.filter(one => one.style.backgroundImage !== 'none').map(one => Number(one.dataset.place))"
    return page.page.locator(".gs-lens-page [role=option]").evaluate_all(script)


def expect_title(page, text):
    expect(page.page.locator(".gs-lens-card")).to_contain_text(text, timeout=20_000)


def test_looking_holding_moving_and_choosing(page):
    token(page, 12).hover()
    expect_title(page, "at 12 gives")
    near = coloured(page)
    assert min(near) < 12 < max(near)  # what it reads is before it, what reads it after
    token(page, 30).click()
    expect_title(page, "at 30 gives")
    token(page, 50).hover()
    page.page.wait_for_timeout(300)
    assert "at 30 gives" in page.text_of("gs-lens-card")  # held
    page.page.locator(".gs-lens-page").focus()
    page.page.keyboard.press("ArrowRight")
    expect_title(page, "at 31 gives")
    page.page.keyboard.press("End")
    expect_title(page, "at 1999 gives")
    assert max(coloured(page)) == 1999
    page.page.keyboard.press("Home")
    expect_title(page, "at 0 gives")
    assert page.page.locator(".gs-lens-page").get_attribute("aria-activedescendant").endswith("-0")
    before = page.seen("gs-lens-card")
    page.page.locator(".gs-lens-map").click(position={"x": 30, "y": 30})
    page.wait_changed("gs-lens-card", before)
    expect_title(page, "Layer 2, head 2")
    page.move_slider("gs-lens-head", 1)
    expect_title(page, "Layer 2, head 3")
    page.screenshot("attention-lens")
    assert page.alerts() == []
    assert page.overflowing() == []
    assert page.console_errors == []
