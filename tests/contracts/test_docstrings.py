"""Everything public says what it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator

Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
#: Named by the frameworks that call them; what they do stands in the docstring of the class.
FRAMEWORK_METHODS = {"forward", "backward", "setup_context"}


def undocumented(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of every public class, function and method without a docstring, and 0 for the module itself."""
    if ast.get_docstring(tree) is None:
        yield 0, "the module"
    for node in tree.body:
        yield from _undocumented(node, "")


def _undocumented(node: ast.AST, inside: str) -> Iterator[tuple[int, str]]:
    if not isinstance(node, Documented) or node.name.startswith("_"):
        return
    framework = bool(inside) and node.name in FRAMEWORK_METHODS
    if ast.get_docstring(node) is None and not framework and not _repeats_another(node):
        yield node.lineno, f"{inside}{node.name}"
    if isinstance(node, ast.ClassDef):
        for member in node.body:
            yield from _undocumented(member, f"{node.name}.")


def _repeats_another(node: Documented) -> bool:
    """A setter or an overload, whose docstring is the one of what it belongs to."""
    names = {ast.unparse(decorator).rsplit(".", 1)[-1] for decorator in node.decorator_list}
    return bool(names & {"setter", "overload", "override"})


def test_everything_public_has_a_docstring(sources: list) -> None:
    missing = [
        f"{source.path}:{line} {name}"
        for source in sources
        if source.path.read_text(encoding="utf-8").strip()
        for line, name in undocumented(source.tree)
    ]
    assert missing == [], f"{len(missing)} public things without a docstring"


def test_docstrings_end_and_do_not_promise(sources: list) -> None:
    promises = ("to be written", "not implemented yet", "placeholder")
    wrong = [
        f"{source.path}:{node.lineno}"
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, Documented)
        and any(promise in (ast.get_docstring(node) or "").lower() for promise in promises)
    ]
    assert wrong == []
