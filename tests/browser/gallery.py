"""artifacts/index.html: the pictures of the browser tests to leaf through, light and dark of a lesson on one place."""

from __future__ import annotations

from html import escape
from pathlib import Path

DARK = "-dark"
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Pictures of the browser tests</title>
<style>
body {{ margin: 0; font: 14px Helvetica, Arial, sans-serif; background: #777 }}
nav {{ position: sticky; top: 0; padding: 8px 12px; background: #fff; border-bottom: 1px solid #999 }}
img {{ display: block; margin: 12px auto; max-width: 100% }}
</style>
<nav><label>Picture <select id="name">{options}</select></label> <span id="place"></span>
· arrow keys leaf, <kbd>d</kbd> changes between light and dark</nav><img id="shown" alt="">
<script>
const pictures = {pictures};
const list = document.getElementById("name"), shown = document.getElementById("shown");
let dark = false;
function show() {{
  const [light, other] = pictures[list.selectedIndex];
  shown.src = dark && other ? other : light;
  shown.alt = shown.getAttribute("src");
  document.getElementById("place").textContent =
    `${{list.selectedIndex + 1}} of ${{pictures.length}}, ${{shown.alt === light ? "light" : "dark"}}`;
}}
list.onchange = () => {{ show(); list.blur(); scrollTo(0, 0); }};
document.onkeydown = (event) => {{
  const step = {{ ArrowRight: 1, ArrowLeft: -1 }}[event.key];
  if (step) {{
    list.selectedIndex = (list.selectedIndex + step + pictures.length) % pictures.length;
    list.onchange();
  }} else if (event.key === "d") {{ dark = !dark; show(); }}
}};
show();
</script></html>
"""


def write_index(artifacts: Path) -> Path:
    """Write the page over artifacts/screens/*.png and return it; NAME-dark.png is the other side of NAME.png."""
    names = sorted(path.stem for path in (artifacts / "screens").glob("*.png"))
    sides = [
        [f"screens/{name}.png", f"screens/{name}{DARK}.png" if f"{name}{DARK}" in names else ""]
        for name in names
        if not (name.endswith(DARK) and name.removesuffix(DARK) in names)
    ]
    options = "".join(f"<option>{escape(Path(light).stem)}</option>" for light, _ in sides)
    page = artifacts / "index.html"
    page.write_text(_PAGE.format(options=options, pictures=sides), encoding="utf-8")
    return page
