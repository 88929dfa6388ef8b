"""`gatescope site`: every solved lesson, the scoreboard, the systems and the API as pages that open offline."""

from __future__ import annotations

import shutil
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nbformat
from gatescope.errors import Refusal
from gatescope.paths import atomic_write, repo_root
from gatescope_kernels.command import Command
from nbformat import NotebookNode

from gatescope_lessons import run
from gatescope_lessons.course_map import course_map
from gatescope_lessons.lesson_kit import Shelf, number, own_shelf
from gatescope_lessons.marked import marked
from gatescope_lessons.progress import progress
from gatescope_lessons.site.pages import PLOTLY, Link, document, document_main, notebook_main
from gatescope_lessons.teaching import handbook

#: Documents of the repository that have a page of their own: file, address, words in the bar.
DOCUMENTS = (
    ("docs/systems.md", "systems.html", "Systems"),
    ("docs/families.md", "families.html", "Models"),
    ("docs/studies.md", "studies.html", "Studies"),
    ("docs/costs.md", "costs.html", "Costs"),
    ("docs/hosting.md", "hosting.html", "Hosting"),
)
_API = "api/gatescope.html"


def bar(api: bool) -> list[Link]:
    """What every page links to."""
    own = [Link("index.html", "Gatescope"), Link("claims.html", "Claims"), Link("teachers.html", "For teachers")]
    return own + [Link(href, text) for _, href, text in DOCUMENTS] + ([Link(_API, "API")] if api else [])


def write_site(out: Path, shelf: Shelf, executed: Mapping[str, NotebookNode], *, api: bool) -> list[Path]:
    """Write all pages of ``executed`` (folder -> notebook) below ``out``; returns them.

    Raises Refusal for a notebook that did not run to its end, before anything is written.
    """
    links = bar(api)
    pages: dict[str, str] = {}
    for folder, notebook in executed.items():
        main, plots = notebook_main(notebook)
        address = f"{folder[1:]}.html"
        title = f"{number(folder)}. {shelf.lesson(folder).title}"
        pages[address] = document(title, links, main, here=address, scripts=[PLOTLY] if plots else [])
    pages["index.html"] = document("Gatescope", links, _front(shelf), here="index.html")
    pages["claims.html"] = document("Claims and verdicts", links, document_main(_claims()), here="claims.html")
    pages["teachers.html"] = document("For teachers", links, document_main(handbook(shelf)), here="teachers.html")
    for file, address, text in DOCUMENTS:
        markdown = (repo_root() / file).read_text(encoding="utf-8")
        pages[address] = document(text, links, document_main(markdown), here=address)
    return [_written(out / address, text) for address, text in pages.items()] + [_written(out / PLOTLY, _plotly())]


def execute(
    shelf: Shelf, folders: Sequence[str], runs: Path, jobs: int, say: Callable[[str], None]
) -> dict[str, NotebookNode]:
    """Run the solution editions with their widgets kept. Raises Refusal naming the first lesson that failed."""
    planned = run.plan(shelf, folders, "quick", ["solution"], runs, workers=jobs, widgets="keep")
    reports = run.run(planned, runs, jobs, say=say)
    if failed := [report for report in reports if report.failure]:
        got = f"{failed[0].job.name} failed: {failed[0].failure.splitlines()[0]}"
        raise Refusal("site", "solution editions that run to their end", got, f"gatescope run {failed[0].job.name}")
    return {job.name: nbformat.read(job.output, as_version=4) for job in planned}


def _front(shelf: Shelf) -> str:
    picture = (repo_root() / "docs/see-what-gates-do.svg").read_text(encoding="utf-8")
    readme = (repo_root() / "README.md").read_text(encoding="utf-8")
    intro = readme.split("<!-- picture:begin -->")[0]
    alt = marked(repo_root() / "README.md", "picture").split('alt="', 1)[1].split('"', 1)[0]
    lessons = course_map(shelf, progress(shelf, Path("no journal")), leads_to="html").html
    return (
        f'{document_main(intro)}<figure role="img" aria-label="{alt}">{picture[picture.index("<svg") :]}</figure>'
        '<section class="text wide"><h2 id="Lessons">Lessons</h2><p>Every lesson is shown solved, as it ran. In the '
        f"lab, <code>make lab</code>, its controls move and its exercises wait for you.</p>{lessons}</section>"
    )


def _claims() -> str:
    path = repo_root() / "README.md"
    intro = path.read_text(encoding="utf-8").split("## What the lessons found")[1].split("<!--")[0]
    return f"# Claims and verdicts\n\n{intro}{marked(path, 'claims')}\n"


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _written(path: Path, text: str) -> Path:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _document_api(out: Path) -> None:
    command = [sys.executable, "-m", "pdoc", "-o", str(out / "api"), "--docformat", "markdown"]
    done = subprocess.run(
        [*command, "gatescope", "gatescope_kernels"], capture_output=True, text=True, check=False, cwd=repo_root()
    )
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["no words"])[-1]
        raise Refusal("site", "pdoc to write the API reference", words, "run `make setup-dev`, or pass --no-api")


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument("lessons", nargs="*", metavar="LESSON", help="folder or number; all when none is given")
    parser.add_argument("--out", type=Path, default=Path("site"), help="folder to write to (default site)")
    parser.add_argument("--no-api", action="store_true", help="leave the API reference out")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks at once")


def _run(arguments: Namespace) -> int:
    shelf = own_shelf()
    folders = [shelf.find(name) for name in arguments.lessons] or shelf.folders()
    executed = execute(shelf, folders, run.run_folder(), max(1, arguments.jobs), lambda line: print(line, flush=True))
    written = write_site(arguments.out, shelf, executed, api=not arguments.no_api)
    if not arguments.no_api:
        shutil.rmtree(arguments.out / "api", ignore_errors=True)
        _document_api(arguments.out)
    print(f"{len(written) - 1} pages; open {arguments.out / 'index.html'}")
    return 0


COMMAND = Command("the solved lessons as a site that opens offline", _configure, _run)
