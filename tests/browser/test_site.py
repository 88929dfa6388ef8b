"""The site in a browser without a network: nothing is missed, nothing overflows, and axe finds nothing to mend."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from gatescope_lessons.lesson_kit import own_shelf
from gatescope_lessons.site.command import execute, write_site

LESSON = "l00_start"
PAGES = ("index.html", "claims.html", "systems.html", "families.html", "costs.html", "00_start.html")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site with one lesson that ran for it."""
    out = tmp_path_factory.mktemp("site")
    executed = execute(own_shelf(), [LESSON], out / "runs", 1, print)
    write_site(out, own_shelf(), executed, api=False)
    return out


@pytest.fixture
def offline(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 800}, offline=True)
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_offline_and_can_be_read_by_everybody(offline, site, artifacts, name):
    errors = []
    offline.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    offline.on("pageerror", lambda error: errors.append(str(error)))
    offline.goto((site / name).as_uri())
    found = Axe().run(offline).response["violations"]
    assert [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found] == []
    assert errors == []
    assert offline.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    offline.screenshot(path=artifacts / "screens" / f"site-{name.removesuffix('.html')}.png", full_page=True)


def test_the_map_leads_to_the_lesson_pages_and_the_glossary(offline, site):
    offline.goto((site / "index.html").as_uri())
    links = offline.locator(".gs-course-card a").evaluate_all("all => all.map(one => one.getAttribute('href'))")
    assert links == [f"{folder[1:]}.html" for folder in own_shelf().folders() if folder != LESSON]
    offline.goto((site / "00_start.html").as_uri() + "#Words")
    assert offline.locator("#Words").is_visible()
