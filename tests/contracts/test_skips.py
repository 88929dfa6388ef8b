"""A test that is skipped says why, and one that is expected to fail must fail."""

from __future__ import annotations

import ast
from pathlib import Path


def calls(root: Path) -> list[tuple[str, ast.Call, str]]:
    return [
        (f"{path.relative_to(root)}:{node.lineno}", node, ast.unparse(node.func))
        for path in sorted((root / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def bare_marks(root: Path) -> list[str]:
    return [
        f"{path.relative_to(root)}:{decorator.lineno}"
        for path in sorted((root / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        for decorator in node.decorator_list
        if ast.unparse(decorator) in {"pytest.mark.skip", "pytest.mark.xfail"}
    ]


def test_every_skip_carries_a_reason(root: Path) -> None:
    wrong = bare_marks(root)
    for where, call, name in calls(root):
        keywords = {keyword.arg for keyword in call.keywords}
        if (name == "pytest.skip" and not call.args and "reason" not in keywords) or (
            name in {"pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail"} and "reason" not in keywords
        ):
            wrong.append(where)
    assert wrong == []


def test_missing_packages_go_through_require(root: Path) -> None:
    # `require` fails where CI=true; importorskip would pass a run that tested nothing.
    assert [where for where, _, name in calls(root) if name == "pytest.importorskip"] == []


def test_expected_failures_are_strict(root: Path) -> None:
    assert [
        where
        for where, call, name in calls(root)
        if name == "pytest.mark.xfail" and "strict" not in {keyword.arg for keyword in call.keywords}
    ] == []
