"""One JupyterLab and one Chromium for the tests of this folder, a fresh tab for each."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .chromium import ARGUMENTS
from .gallery import write_index
from .jupyterlab import Lab, running
from .notebook_page import NotebookPage


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("browser")


# playwright keeps an event loop running on this thread, which other tests could not stand: hence "package".
@pytest.fixture(scope="package")
def lab(chromium: str, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab serving a copy of notebooks/."""
    home = tmp_path_factory.mktemp("jupyterlab")
    shutil.copytree(root / "notebooks", home / "notebooks")
    with running(home / "notebooks", home) as lab:
        yield lab


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="package", autouse=True)
def gallery(artifacts: Path) -> Iterator[None]:
    """A page to leaf through the pictures that the tests leave."""
    yield
    write_index(artifacts)


@pytest.fixture
def notebook(lab: Lab, browser, artifacts: Path, request: pytest.FixtureRequest) -> Iterator[NotebookPage]:
    """A tab in which a notebook can be opened."""
    screens = artifacts / "screens"
    screens.mkdir(exist_ok=True)
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    yield NotebookPage(context.new_page(), lab, screens, name)
    context.close()
