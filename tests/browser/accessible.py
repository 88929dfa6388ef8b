"""What axe says of a page, or of the parts of it that are ours."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

#: Rules about what a lesson puts on the page itself, in its text, its views and the controls of its panels.
OURS = (
    "area-alt",
    "button-name",
    "color-contrast",
    "image-alt",
    "label",
    "link-name",
    "nested-interactive",
    "role-img-alt",
    "select-name",
    "svg-img-alt",
)


def violations(page: Page, *within: str, rules: tuple[str, ...] = ()) -> list[tuple[str, list[str]]]:
    """Rule and elements of all that axe finds, inside the CSS selectors ``within`` or anywhere, by ``rules`` or all."""
    options = {"resultTypes": ["violations"]} | ({"runOnly": list(rules)} if rules else {})
    context = {"include": [[one] for one in within]} if within else None
    found = Axe().run(page, context, options).response["violations"]
    return [(one["id"], [node["html"][:160] for node in one["nodes"]]) for one in found]
