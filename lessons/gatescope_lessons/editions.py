"""lesson.py -> the text of a notebook: which cells an edition holds, the head every lesson shares, stable cell ids."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from itertools import groupby

import jupytext
import nbformat
from gatescope.errors import Refusal
from nbformat import NotebookNode

from gatescope_lessons.glossary import linked
from gatescope_lessons.lesson_kit import Edition, Lesson, number

#: ``local``: what the cell shows is about this machine, so the site leaves it out.
TAGS = frozenset({"exercise", "solution", "parameters", "hint", "local"})
# jupytext's own notes on blank lines and cell titles; they say nothing about the cell.
_JUPYTEXT_KEYS = frozenset({"lines_to_next_cell", "lines_to_end_of_cell_marker", "title", "cell_depth"})
#: Without a kernelspec JupyterLab starts no kernel.
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebook_text(folder: str, lesson: Lesson, source: str, edition: Edition) -> str:
    """The notebook of one edition, as the text of its file: no outputs, sorted keys, ids that follow the content.

    ``source`` is lesson.py in jupytext's percent format. Cells tagged ``exercise`` stay in the exercise edition only,
    ``solution`` in the solution edition only; consecutive markdown cells tagged ``hint`` become one ladder.
    Raises Refusal naming the cell for an unknown tag or key, an exercise without a blank or without its solution,
    a missing or doubled ``parameters`` cell, or headings out of order.
    """
    cells = jupytext.reads(source.strip(), fmt="py:percent").cells
    _refuse_bad_cells(folder, cells)
    other = "solution" if edition == "exercise" else "exercise"
    kept = [cell for cell in cells if other not in _tags(cell)]
    _refuse_bad_headings(folder, kept)
    _link_words(kept, edition)
    body = [_head(folder, lesson, edition), *_with_ladders(kept)]
    built = nbformat.v4.new_notebook(cells=list(_identified(body)), metadata=METADATA)
    nbformat.validate(built)
    return nbformat.writes(built) + "\n"


def parameter_names(notebook: NotebookNode) -> set[str]:
    """The names that a notebook's ``parameters`` cell assigns: what a run may set."""
    names: set[str] = set()
    for cell in notebook.cells:
        if "parameters" in _tags(cell):
            for statement in ast.parse(cell.source).body:
                targets = (
                    statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
                )
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def _tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def _place(index: int, cell: NotebookNode) -> str:
    first_line = next(iter(cell.source.splitlines()), "")
    return f"cell {index} ({first_line!r})"


def _refuse_bad_cells(folder: str, cells: list[NotebookNode]) -> None:
    operator = f"{folder}/lesson.py"
    for index, cell in enumerate(cells, start=1):
        place = _place(index, cell)
        if unknown := set(cell.metadata) - {"tags"} - _JUPYTEXT_KEYS:
            raise Refusal(operator, f"{place} with tags=[...] only", ", ".join(sorted(unknown)), "remove the rest")
        if unknown := set(_tags(cell)) - TAGS:
            wanted = f"tags of {place} among {', '.join(sorted(TAGS))}"
            raise Refusal(operator, wanted, ", ".join(sorted(unknown)), "correct the tag")
        if cell.cell_type not in {"code", "markdown"}:
            raise Refusal(operator, f"{place} as code or markdown", cell.cell_type, "change its type")
        if not cell.source.strip():
            raise Refusal(operator, f"{place} with content", "an empty cell", "remove its marker")
        if "hint" in _tags(cell) and cell.cell_type != "markdown":
            raise Refusal(operator, f"{place}, a hint, as markdown", "code", 'write `# %% [markdown] tags=["hint"]`')
        if "exercise" in _tags(cell) and cell.cell_type == "code" and not _has_blank(operator, place, cell.source):
            raise Refusal(operator, f"a blank `...` in the exercise {place}", "none", "replace the answer by ...")
    for tag, wanted in (("exercise", _count(cells, "solution")), ("parameters", 1)):
        if _count(cells, tag) != wanted:
            raise Refusal(
                operator,
                "one parameters cell" if tag == "parameters" else "as many exercise cells as solution cells",
                f"{_count(cells, tag)} tagged {tag}" + ("" if tag == "parameters" else f", {wanted} tagged solution"),
                "tag the cell that sets profile = 'quick'" if tag == "parameters" else "write the missing one",
            )
    (parameters,) = (cell for cell in cells if "parameters" in _tags(cell))
    if "profile" not in parameter_names(nbformat.v4.new_notebook(cells=[parameters])):
        raise Refusal(operator, "profile set in the parameters cell", repr(parameters.source), "add profile = 'quick'")


def _count(cells: list[NotebookNode], tag: str) -> int:
    return sum(tag in _tags(cell) and cell.cell_type == "code" for cell in cells)


def _has_blank(operator: str, place: str, source: str) -> bool:
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise Refusal(
            operator, f"Python in {place}", f"{error.msg} on its line {error.lineno}", "correct it"
        ) from error
    return any(isinstance(node, ast.Constant) and node.value is ... for node in ast.walk(tree))


def _refuse_bad_headings(folder: str, cells: list[NotebookNode]) -> None:
    above = 1
    for index, cell in enumerate(cells, start=1):
        if cell.cell_type != "markdown":
            continue
        for level in _heading_levels(cell.source):
            if level == 1 or level > above + 1:
                raise Refusal(
                    f"{folder}/lesson.py",
                    f"a heading of level 2 to {above + 1} in {_place(index, cell)}",
                    f"level {level}",
                    "the generated head holds the one level 1; step down one level at a time",
                )
            above = level


def _link_words(cells: list[NotebookNode], edition: Edition) -> None:
    texts = [cell for cell in cells if cell.cell_type == "markdown"]
    found = linked([cell.source for cell in texts], "../" if edition == "solution" else "")
    for cell, text in zip(texts, found, strict=True):
        cell.source = text


def _heading_levels(markdown: str) -> Iterator[int]:
    fenced = False
    for line in markdown.splitlines():
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced and (match := re.match(r"(#{1,6})\s", line)):
            yield len(match.group(1))


def _head(folder: str, lesson: Lesson, edition: Edition) -> NotebookNode:
    name = f"{folder[1:]}.ipynb"
    here, there = (
        ("exercise", f"[solutions](solutions/{name})")
        if edition == "exercise"
        else ("solution", f"[exercises](../{name})")
    )
    lines = [
        f"# {number(folder)}. {lesson.title}",
        "",
        f"{lesson.minutes} minutes · {lesson.difficulty} · {here} edition ({there})",
        "",
        "**You need**",
        "",
        *(f"- {prerequisite}" for prerequisite in lesson.prerequisites or ("Python, and nothing else.",)),
        "",
        "**Afterwards you can**",
        "",
        *(f"- {objective}" for objective in lesson.objectives),
    ]
    return nbformat.v4.new_markdown_cell("\n".join(lines))


def _with_ladders(cells: list[NotebookNode]) -> Iterator[NotebookNode]:
    for is_hint, group in groupby(cells, key=lambda cell: "hint" in _tags(cell)):
        if is_hint:
            steps = (
                f"<details><summary>Hint {step}</summary>\n\n{cell.source.strip()}\n\n</details>"
                for step, cell in enumerate(group, start=1)
            )
            ladder = nbformat.v4.new_markdown_cell("\n".join(steps))
            ladder.metadata["tags"] = ["hint"]
            yield ladder
        else:
            yield from group


def _identified(cells: list[NotebookNode]) -> Iterator[NotebookNode]:
    """Clean copies whose ids are digests of the content, so that an unchanged cell never shows in a diff."""
    seen: dict[str, int] = {}
    for cell in cells:
        content = f"{cell.cell_type}\n{cell.source}"
        seen[content] = repeat = seen.get(content, 0) + 1
        new = nbformat.v4.new_code_cell if cell.cell_type == "code" else nbformat.v4.new_markdown_cell
        metadata = {"tags": sorted(_tags(cell))} if _tags(cell) else {}
        digest = hashlib.sha256(f"{content}\n{repeat}".encode()).hexdigest()
        yield new(cell.source, metadata=metadata, id=digest[:12])
