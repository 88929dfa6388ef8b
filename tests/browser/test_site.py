"""The site in a browser without a network: nothing is missed, nothing overflows, and axe finds nothing to mend."""

from __future__ import annotations

import shutil

import nbformat
import pytest
from gatescope_lessons.lesson_kit import own_shelf
from gatescope_lessons.site.command import execute, write_site

from .accessible import violations

SHELF = own_shelf()
LESSON = "l00_start"
PAGES = ("index.html", "claims.html", "systems.html", "families.html", "studies.html", "costs.html")


@pytest.fixture(scope="module")
def solved(root, artifacts):
    """A solution edition as the notebooks' own test left it, or run now where that was before the last change."""
    sources = [path for room in ("kernels", "lessons", "toolkit") for path in (root / room).rglob("*.py")]
    changed = max(path.stat().st_mtime for path in sources)

    def solved(folder):
        place = artifacts / "executed" / folder / "solution"
        left = place / SHELF.notebook(folder, "solution").name
        if left.is_file() and left.stat().st_mtime > changed:
            return nbformat.read(left, as_version=4)
        shutil.rmtree(place, ignore_errors=True)
        return execute(SHELF, [folder], artifacts / "executed", 1, print)[folder]

    return solved


@pytest.fixture(scope="module")
def site(tmp_path_factory, solved):
    """The site with one lesson."""
    out = tmp_path_factory.mktemp("site")
    write_site(out, SHELF, {LESSON: solved(LESSON)}, api=False)
    return out


@pytest.fixture
def offline(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 800}, offline=True)
    yield context.new_page()
    context.close()


def refuse_faults(page, path, artifacts):
    errors = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    page.screenshot(path=artifacts / "screens" / f"site-{path.stem}.png", full_page=True)
    assert violations(page) == []
    assert errors == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_offline_and_can_be_read_by_everybody(offline, site, artifacts, name):
    refuse_faults(offline, site / name, artifacts)


@pytest.mark.parametrize("folder", SHELF.folders())
def test_a_solved_lesson_opens_offline_and_can_be_read_by_everybody(offline, solved, artifacts, tmp_path, folder):
    write_site(tmp_path, SHELF, {folder: solved(folder)}, api=False)
    refuse_faults(offline, tmp_path / f"{folder[1:]}.html", artifacts)


def test_the_map_leads_to_the_lesson_pages_and_the_glossary(offline, site):
    offline.goto((site / "index.html").as_uri())
    links = offline.locator(".gs-course-card a").evaluate_all("all => all.map(one => one.getAttribute('href'))")
    assert links == [f"{folder[1:]}.html" for folder in SHELF.folders() if folder != LESSON]
    offline.goto((site / "00_start.html").as_uri() + "#Words")
    assert offline.locator("#Words").is_visible()
