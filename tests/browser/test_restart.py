"""What a learner did outlives a restarted kernel and a killed server: run, guess, progress and notebook."""

from __future__ import annotations

import os
import signal

import nbformat
import psutil
import pytest
from gatescope_lessons import journal
from gatescope_lessons.editions import METADATA
from playwright.sync_api import expect

from .jupyterlab import running
from .notebook_page import NotebookPage

CELLS = (
    """
from gatescope import panels
from gatescope_lessons.exercises import exercise
from gatescope_lessons.l02_one_gate_no_sink import lab
from gatescope_lessons.predictions import predict

guess = predict("restart", "Is it kept?", ["yes", "no"])
guess
""",
    """
trainer = panels.train_live(lambda: lab.training("softmax", 0, watched=True), steps=1000)
trainer.run_blocking(max_steps=10)
trainer
""",
    """
@exercise()
def double(answer):
    return None if answer(2) == 4 else "twice is two times"

double(lambda x: 2 * x)
""",
)
RESUMED = r"Resumed at step (\d+)"
TRAINING_S = 120


def write(root):
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in CELLS]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=METADATA), root / "restart.ipynb")


def run(page):
    page.run_all()
    page.wait_done()
    assert page.error_outputs() == []


def train_until_kept(page, lab):
    """Start the training in the background and wait until it was kept on the way."""

    def newest():
        # Of this notebook: the lab of the session holds the live runs of every lesson opened before.
        return max(path.stat().st_mtime_ns for path in (lab.home / "live").glob("*/training.safetensors"))

    before = newest()
    page.page.locator(".gs-train-start").click()
    page.wait_until(lambda: newest() > before, TRAINING_S)


def test_a_kernel_restarted_in_mid_training_goes_on(notebook, lab):
    write(lab.root)
    notebook.open("restart.ipynb")
    run(notebook)
    expect(notebook.page.locator(".gs-train-kept")).to_contain_text("Kept on this disk")
    train_until_kept(notebook, lab)
    notebook.command("kernelmenu:restart")
    notebook.page.locator(".jp-Dialog .jp-mod-accept").click()
    notebook.wait_idle()
    run(notebook)
    resumed = notebook.wait_number("gs-train-kept", RESUMED)
    assert resumed > 10
    assert notebook.wait_number("gs-train-status", r"stopped at step (\d+)") == resumed + 10
    assert notebook.console_errors == []


@pytest.fixture
def page_of(browser, artifacts):
    """Makes a page of a server."""
    made = []

    def make(lab):
        made.append(browser.new_context(viewport={"width": 1280, "height": 800}))
        return NotebookPage(made[-1].new_page(), lab, artifacts / "screens", f"killed-server-{len(made)}")

    yield make
    for context in made:
        context.close()


def test_a_server_killed_in_mid_training_costs_nothing(page_of, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    write(work)
    with running(work, tmp_path) as lab:
        page = page_of(lab)
        page.open("restart.ipynb")
        run(page)
        page.page.locator(".gs-prediction button", has_text="yes").click()
        expect(page.page.locator(".jp-Notebook")).to_contain_text("Noted.")
        page.page.locator(".jp-CodeCell .cm-content").last.click()
        page.page.keyboard.press("Control+End")
        page.page.keyboard.type("  # my own words")
        page.command("docmanager:save")
        page.wait_until(lambda: "my own words" in (work / "restart.ipynb").read_text(encoding="utf-8"), 20)
        train_until_kept(page, lab)
        kernels = psutil.Process(lab.pid).children(recursive=True)
        os.kill(lab.pid, signal.SIGKILL)
        _, left = psutil.wait_procs(kernels, timeout=30)
        assert left == [], "a kernel whose server is gone ends, and lets go of its run"

    with running(work, tmp_path) as lab:
        page = page_of(lab)
        page.open("restart.ipynb")
        expect(page.page.locator(".jp-Notebook")).to_contain_text("my own words")
        run(page)
        assert page.wait_number("gs-train-kept", RESUMED) > 10
        expect(page.page.locator(".jp-Notebook")).to_contain_text("Your earlier guess")
    notes = journal.read(tmp_path / "progress.jsonl")
    assert [(note["name"], note.get("guess", note.get("status"))) for note in notes] == [
        ("double", "passed"),
        ("restart", "yes"),
        ("double", "passed"),
    ]
