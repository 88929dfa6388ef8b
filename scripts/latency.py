"""Lessons timed in a real browser: the first picture after Run All Cells, and from a moved control to the redrawn view.

    .venv/bin/python scripts/latency.py 00 04 --moves 20 --json

Times end with the frame that shows what was drawn. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the JupyterLab and the page of the browser tests

from browser.chromium import ARGUMENTS, FIX, find_chromium  # noqa: E402
from browser.jupyterlab import running  # noqa: E402
from browser.notebook_page import NotebookPage  # noqa: E402
from gatescope.errors import Refusal  # noqa: E402
from gatescope_lessons.lesson_kit import Lesson, own_shelf  # noqa: E402

#: Lesson -> tokens that its main control sends through SmolLM2; that of the others runs a tiny model or formulas.
SMOLLM2 = {"l01_where_attention_goes": 171, "l07_learning_what_not_to_read": 160}
#: Seconds that a move may take: a tiny model, 64 tokens of SmolLM2 (more take longer in proportion).
BARS = {"tiny": 0.2, "SmolLM2": 0.8}
FIRST_PICTURE = 10.0
RUN_SECONDS = 600
#: A view that did not change for so long is redrawn.
_REST_MS = 300
_FIRST = """() => {
    const times = globalThis.gatescopeTimes = { begun: null, pictured: null };
    document.addEventListener('pointerup', (event) => {
        if (event.target.closest('[data-command="runmenu:run-all"]')) times.begun = performance.now();
    }, true);
    const pictures = ['img', 'svg', 'canvas', '[role=figure]'].map((one) => `.jp-OutputArea-output ${one}`).join();
    const look = () => {
        const seen = [...document.querySelectorAll(pictures)].some((one) => one.getBoundingClientRect().height > 20);
        if (times.begun && seen) times.pictured = performance.now(); else requestAnimationFrame(look);
    };
    look();
}"""
_WATCH = """(css) => {
    const times = globalThis.gatescopeTimes = { moved: null, redrawn: null, drawn: null };
    document.addEventListener('keydown', () => {
        Object.assign(times, { moved: performance.now(), redrawn: null, drawn: null });
    }, true);
    const changed = () => requestAnimationFrame(() => {
        times.drawn = performance.now();
        times.redrawn ??= times.drawn;
    });
    for (const view of document.querySelectorAll(`.${css}`))
        new MutationObserver(changed).observe(
            view, { subtree: true, childList: true, attributes: true, characterData: true });
}"""
_AT_REST = "(rest) => gatescopeTimes.drawn && performance.now() - gatescopeTimes.drawn > rest"


@dataclass(frozen=True)
class Timing:
    """What was measured of a lesson, in seconds, beside its bars; None where it has no main control. A move ends with
    the redrawn view; ``whole`` with the last change of it, where it is redrawn again as more becomes known."""

    lesson: str
    model: str
    first_picture: float
    moves: tuple[float, ...]
    p50: float | None
    p95: float | None
    whole: float | None
    bar: float
    first_bar: float = FIRST_PICTURE

    @property
    def kept(self) -> bool:
        """Whether it is within both bars."""
        return self.first_picture <= self.first_bar and (self.p95 is None or self.p95 <= self.bar)


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that ``share`` of all do not exceed; None of nothing."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def timed(page: NotebookPage, folder: str, lesson: Lesson, moves: int) -> Timing:
    """Open a lesson, run all of it, and move its main control ``moves`` times, waiting for rest in between."""
    page.open(f"{folder[1:]}.ipynb")
    page.page.evaluate(_FIRST)
    page.run_all()
    page.wait_done(RUN_SECONDS)
    page.page.wait_for_function("() => gatescopeTimes.pictured")
    first = page.page.evaluate("() => gatescopeTimes.pictured - gatescopeTimes.begun") / 1000
    found = list(_moves(page, folder, lesson, moves)) if lesson.main_control else []
    seconds, whole = tuple(redrawn for redrawn, _ in found), quantile([last for _, last in found], 0.95)
    model, passes = ("SmolLM2", SMOLLM2[folder] / 64) if folder in SMOLLM2 else ("tiny", 1.0)
    bar = passes * BARS[model]
    return Timing(folder, model, first, seconds, quantile(seconds, 0.5), quantile(seconds, 0.95), whole, bar)


def _moves(page: NotebookPage, folder: str, lesson: Lesson, count: int) -> Iterator[tuple[float, float]]:
    """Seconds to the redrawn view and to its last change. Raises Refusal for a move that changes nothing."""
    from playwright.sync_api import TimeoutError as Timeout

    handle = page.page.locator(f".{lesson.main_control} .noUi-handle").first
    handle.scroll_into_view_if_needed()
    page.page.evaluate(_WATCH, lesson.main_view)
    handle.focus()
    ends = {"ArrowLeft": "aria-valuemin", "ArrowRight": "aria-valuemax"}
    key = "ArrowLeft"
    for number in range(count):
        if handle.get_attribute("aria-valuenow") == handle.get_attribute(ends[key]):
            key = next(other for other in ends if other != key)
        page.page.keyboard.press(key)
        try:
            page.page.wait_for_function(_AT_REST, arg=_REST_MS, timeout=60_000)
        except Timeout:
            got = f"no change within a minute of {key} at {handle.get_attribute('aria-valuetext')}, move {number + 1}"
            step = "look at the lesson: its view must answer every move, or show why it cannot"
            raise Refusal(f"latency {folder}", f"a view .{lesson.main_view} that answers", got, step) from None
        times = page.page.evaluate("() => gatescopeTimes")
        yield tuple((times[end] - times["moved"]) / 1000 for end in ("redrawn", "drawn"))


@contextmanager
def opened() -> Iterator[NotebookPage]:
    """A page of a JupyterLab of its own on copies of the notebooks. Raises Refusal without a Chromium."""
    from playwright.sync_api import sync_playwright

    chromium = find_chromium()
    if chromium is None:
        raise Refusal("latency", "a Chromium", "none", FIX)
    with TemporaryDirectory(prefix="gatescope-latency-") as folder, sync_playwright() as playwright:
        home = Path(folder)
        shutil.copytree(ROOT / "notebooks", home / "notebooks")
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        with running(home / "notebooks", home) as lab:
            yield NotebookPage(browser.new_page(viewport={"width": 1280, "height": 800}), lab, home, "latency")
        browser.close()


def _line(found: Timing) -> str:
    moves = [value for value in (found.p50, found.p95, found.whole) if value is not None]
    moved = "".join(f"{1000 * value:8.0f}" for value in moves) or "no control"
    return (
        f"{found.lesson:<34}{found.first_picture:9.1f}{moved:>24}{1000 * found.bar:8.0f}  {found.model:<8}"
        f"{'ok' if found.kept else 'OVER'}"
    )


def main(words: Sequence[str] | None = None) -> int:
    """Time lessons one after the other, each in a fresh JupyterLab."""
    parser = argparse.ArgumentParser(prog="latency", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("lessons", nargs="*", metavar="LESSON", help="folder or number; all when none is given")
    parser.add_argument("--moves", type=int, default=20, help="moves of the main control (default 20)")
    parser.add_argument("--json", action="store_true", help="print everything measured as JSON")
    arguments = parser.parse_args(words)
    shelf = own_shelf()
    try:
        folders = [shelf.find(name) for name in arguments.lessons] or shelf.folders()
        if arguments.moves < 1:
            raise Refusal("latency", "--moves 1 or more", str(arguments.moves), "20 are usual")
        if not arguments.json:
            print(
                f"{'lesson':<34}{'first (s)':>9}{'p50 (ms)':>9}{'p95':>7}{'whole':>8}{'bar':>8}"
                "  model   first picture within 10 s"
            )
        rows = []
        for folder in folders:
            with opened() as page:
                rows.append(timed(page, folder, shelf.lesson(folder), arguments.moves))
            if not arguments.json:
                print(_line(rows[-1]), flush=True)
    except Refusal as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps([{**asdict(row), "kept": row.kept} for row in rows], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
