"""A notebook open in JupyterLab, and what a learner does with it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote

from playwright.sync_api import ConsoleMessage, Page, expect

from .jupyterlab import Lab

#: Console errors that say nothing about a lesson. Each must match the whole text.
IGNORED: tuple[re.Pattern[str], ...] = ()

# Chromium draws no taller picture.
_TALLEST = 16_000
# JupyterLab shows a traceback as it shows what was written to stderr.
_ERROR_OUTPUTS = '.jp-Notebook [data-mime-type="application/vnd.jupyter.stderr"]'
# What a learner sees of a view: text, pictures, and the shapes of drawn figures.
_SEEN = """views => views.map(view => [
    view.innerText,
    ...[...view.querySelectorAll('img')].map(image => image.src),
    ...[...view.querySelectorAll('svg')].map(drawing => drawing.outerHTML),
].join('\\n')).join('\\n')"""
# Widgets scroll inside a box of their own when they are too wide, so the box is asked, not the cell.
_OVERFLOWING = """() => [...document.querySelectorAll(
        '.jp-OutputArea-output, .jp-OutputArea-output .widget-box, .jp-RenderedMarkdown')]
    .filter(box => box.clientWidth && box.scrollWidth > box.clientWidth + 1)
    .map(box => `${box.className}: ${box.scrollWidth} px in ${box.clientWidth} px: ${box.innerText.slice(0, 60)}`)"""


class NotebookPage:
    """One notebook in one browser tab. Console errors are collected from the first request on.

    ``name`` tells this page's picture of a failure from others.
    """

    def __init__(self, page: Page, lab: Lab, screens: Path, name: str) -> None:
        self.page, self.lab, self.screens, self.name = page, lab, screens, name
        self.console_errors: list[str] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.console_errors.append(f"{error.name}: {error.message}"))

    def open(self, notebook: str) -> None:
        """Open a notebook of the lab's root and wait until its kernel is there."""
        self.page.goto(self.lab.address(notebook))
        expect(self.page.locator(".jp-Notebook .jp-Cell").first).to_be_visible(timeout=60_000)
        self.wait_idle()

    def command(self, name: str, **arguments: object) -> None:
        """Have JupyterLab execute one of its commands, as its menus do."""
        self.page.evaluate(
            "([name, arguments]) => void jupyterapp.commands.execute(name, arguments)", [name, arguments]
        )

    @contextmanager
    def dark(self) -> Iterator[None]:
        """JupyterLab in its dark theme while the block lasts."""
        self._theme("JupyterLab Dark", light="false")
        try:
            yield
        finally:  # the next test has the same settings
            self._theme("JupyterLab Light", light="true")

    def wait_idle(self, seconds: float = 60) -> None:
        """Wait until the status bar says that the kernel is idle."""
        expect(self.page.locator("#jp-bottom-panel").get_by_text("| Idle")).to_be_visible(timeout=seconds * 1000)

    def run_all(self) -> None:
        """Choose Run, Run All Cells, until a cell runs: the idle light comes before the kernel listens."""
        for _ in range(6):
            self.page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
            self.page.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click()
            if self._holds(lambda: any(self._prompts()), 4):
                return
        self._fail("no cell ran after six tries of Run All Cells")

    def wait_done(self, seconds: float = 120) -> None:
        """Wait until every cell that was started has ended, the kernel is idle, and figures are drawn."""

        def done() -> bool:
            prompts = self._prompts()
            return any(prompts) and "[*]:" not in prompts

        if not self._holds(done, seconds):
            self._fail(f"cells still run after {seconds:g} s: prompts {self._prompts()}")
        self.wait_idle()
        expect(self.page.locator('.jp-OutputArea-output [aria-busy="true"]')).to_have_count(0, timeout=60_000)

    def error_outputs(self) -> list[str]:
        """The tracebacks and warnings shown, in cells or in widgets."""
        return self.page.locator(_ERROR_OUTPUTS).all_inner_texts()

    def alerts(self) -> list[str]:
        """The messages that panels show in place of an answer."""
        return [text for text in self.page.locator('.jp-Notebook [role="alert"]').all_inner_texts() if text.strip()]

    def move_slider(self, css_class: str, steps: int) -> str:
        """Press an arrow key ``steps`` times (to the left when negative) on a slider; returns its new readout."""
        slider = self.page.locator(f".{css_class}")
        handle = slider.locator(".noUi-handle").first
        handle.scroll_into_view_if_needed()
        handle.focus()
        for _ in range(abs(steps)):
            self.page.keyboard.press("ArrowRight" if steps > 0 else "ArrowLeft")
        return slider.locator(".widget-readout").first.inner_text()

    def text_of(self, css_class: str) -> str:
        """The text of the first element of a class."""
        return self.page.locator(f".{css_class}").first.inner_text()

    def image_src(self, css_class: str) -> str:
        """The source of the first image inside an element of a class."""
        return self.page.locator(f".{css_class} img").first.get_attribute("src") or ""

    def seen(self, css_class: str) -> str:
        """Everything a view shows: text, images, drawings. It changes exactly when a learner could see a change."""
        return self.page.locator(f".{css_class}").evaluate_all(_SEEN)

    def wait_changed(self, css_class: str, before: str, seconds: float = 60) -> str:
        """Wait until a view shows something else than ``before``; returns what it shows now."""
        if not self._holds(lambda: self.seen(css_class) != before, seconds):
            self._fail(f".{css_class} shows the same after {seconds:g} s")
        return self.seen(css_class)

    def wait_text(self, css_class: str, text: str, seconds: float = 20) -> None:
        """Wait until the first element of a class says ``text``: a moved slider sends every step on its way."""
        expect(self.page.locator(f".{css_class}").first).to_have_text(text, timeout=seconds * 1000)

    def wait_until(self, question: Callable[[], bool], seconds: float) -> None:
        """Wait until ``question`` is answered with yes."""
        if not self._holds(question, seconds):
            self._fail(f"not so after {seconds:g} s")

    def wait_number(self, css_class: str, pattern: str, seconds: float = 60) -> int:
        """Wait until an element of a class says ``pattern``, whose group is a number; returns that."""

        def found() -> re.Match[str] | None:
            return re.search(pattern, self.page.locator(f".{css_class}").last.inner_text())

        if not self._holds(lambda: bool(self.page.locator(f".{css_class}").count() and found()), seconds):
            self._fail(f".{css_class} does not say {pattern} after {seconds:g} s")
        return int(found()[1])

    def overflowing(self) -> list[str]:
        """Outputs and texts wider than their place."""
        return self.page.evaluate(_OVERFLOWING)

    def screenshot(self, name: str) -> Path:
        """The whole notebook, from its first cell on, as artifacts/screens/<name>.png."""
        size = self.page.viewport_size or {"width": 1280, "height": 800}
        panel = self.page.locator(".jp-WindowedPanel-outer").first
        height = int(panel.evaluate("panel => panel.scrollHeight")) + 100
        self.page.set_viewport_size({"width": size["width"], "height": min(height, _TALLEST)})
        panel.evaluate("panel => panel.scrollTo(0, 0)")
        path = self.screens / f"{name}.png"
        self.page.screenshot(path=path, animations="disabled")
        self.page.set_viewport_size(size)
        return path

    def _theme(self, name: str, light: str) -> None:
        self.command("apputils:change-theme", theme=name)
        expect(self.page.locator(f'body[data-jp-theme-light="{light}"]')).to_be_attached(timeout=20_000)
        self.page.wait_for_timeout(300)  # what fades

    def _prompts(self) -> list[str]:
        prompts = self.page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").all_inner_texts()
        return [text for text in (prompt.strip() for prompt in prompts) if re.fullmatch(r"\[(\*|\d+)\]:", text)]

    def _holds(self, question: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not question():
            if time.monotonic() > deadline:
                return False
            self.page.wait_for_timeout(100)
        return True

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not any(pattern.fullmatch(message.text) for pattern in IGNORED):
            self.console_errors.append(f"{message.text} ({unquote(message.location.get('url', ''))})")

    def _fail(self, what: str) -> NoReturn:
        path = self.screenshot(f"{self.name}-failure")
        raise AssertionError(f"{what}; see {path.name}; console: {self.console_errors or 'no errors'}")
