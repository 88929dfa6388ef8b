"""Adding one touches its file and its row: folders and tables hold the same things."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest
from gatescope.gates.activations import ACTIVATIONS
from gatescope.interventions import INTERVENTIONS
from gatescope.probes import PROBES
from gatescope.records import SCHEMA
from gatescope.views import VIEWS
from gatescope_kernels.ops._table import OPS

OP_FILES = {"__init__.py", "api.py", "reference.py", "blockwise.py", "README.md"}


def public_functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")}


def modules(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem != "__init__"}


def concrete(package: str, folder: Path, base_name: str) -> set[type]:
    """Public classes defined in ``folder`` that derive from the base class and give themselves a name."""
    base = getattr(import_module(f"{package}.base"), base_name)
    found = set()
    for stem in modules(folder):
        module = import_module(f"{package}.{stem}")
        for value in vars(module).values():
            own = isinstance(value, type) and value.__module__ == module.__name__ and issubclass(value, base)
            if own and not value.__name__.startswith("_") and "name" in vars(value):
                found.add(value)
    return found


@pytest.mark.parametrize(
    ("package", "base", "table"),
    [("gatescope.probes", "Probe", PROBES), ("gatescope.interventions", "Intervention", INTERVENTIONS)],
)
def test_classes_and_table_agree(root: Path, package: str, base: str, table: dict[str, type]) -> None:
    folder = root / "toolkit" / package.replace(".", "/")
    assert concrete(package, folder, base) == set(table.values())
    assert all(row.name == name for name, row in table.items())


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_has_a_file_of_its_name(root: Path, name: str) -> None:
    assert PROBES[name].__module__ == f"gatescope.probes.{name}"


@pytest.mark.parametrize("name", PROBES)
def test_what_a_probe_measures_is_defined_in_full(name: str) -> None:
    for row in PROBES[name].describe():
        empty = [field for field in ("formula", "units", "source", "baseline") if field in row and not row[field]]
        assert empty == [], f"{name}: {row}"


def test_no_variable_has_two_definitions() -> None:
    named = [quantity.name for probe in PROBES.values() for quantity in probe.quantities]
    assert len(named) == len(set(named))
    assert SCHEMA, "records without a schema cannot be checked"


def test_every_view_has_its_frame_and_its_row(root: Path) -> None:
    drawn: dict[str, str] = {}
    for stem, path in modules(root / "toolkit/gatescope/views").items():
        functions = public_functions(path)
        drawn |= {name: stem for name in functions if f"{name}_frame" in functions}
    assert {name: view.module for name, view in VIEWS.items()} == drawn


def test_every_gate_activation_has_its_row(root: Path) -> None:
    assert public_functions(root / "toolkit/gatescope/gates/activations.py") == {
        row.apply.__name__ for row in ACTIVATIONS.values()
    }


def test_every_op_folder_has_its_row(root: Path) -> None:
    folders = {path.name for path in (root / "kernels/gatescope_kernels/ops").iterdir() if (path / "api.py").is_file()}
    assert set(OPS) == folders


@pytest.mark.parametrize("name", OPS)
def test_an_op_folder_is_whole(root: Path, name: str) -> None:
    held = {path.name for path in (root / "kernels/gatescope_kernels/ops" / name).iterdir()}
    assert OP_FILES - held == set()
    assert "triton.py" not in held, "a file of that name shadows the package"


def test_every_lesson_folder_is_whole(root: Path) -> None:
    lessons = root / "lessons/gatescope_lessons"
    folders = sorted(path for path in lessons.glob("l[0-9][0-9]_*") if any(path.glob("*.py")))
    assert folders
    missing = [
        f"{folder.name}/{name}"
        for folder in folders
        for name in ("__init__.py", "lesson.py", "lab.py", "checks.py")
        if not (folder / name).is_file()
    ]
    assert missing == []
    numbers = [folder.name[1:3] for folder in folders]
    assert len(numbers) == len(set(numbers)), "two lessons share a number"
