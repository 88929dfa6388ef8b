"""Who imports whom, and what may not be imported before it is asked for."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = ("gatescope", "gatescope_kernels", "gatescope_lessons")

#: Between the packages: an arrow a -> b is in the table when a may import b.
PACKAGE_IMPORTS = {
    "gatescope_kernels": set(),
    "gatescope": {"gatescope_kernels"},
    "gatescope_lessons": {"gatescope", "gatescope_kernels"},
}

EVERYBODY = {"dims", "errors", "paths", "specs", "data", "__version__"}
#: Inside the toolkit, beyond what everybody may import. ``kernels`` is the kernels' public api.
ROOM_IMPORTS = {
    "dims": set(),
    "errors": {"kernels"},
    "paths": set(),
    "specs": set(),
    "data": set(),
    "gates": set(),
    "taps": {"kernels"},
    "layers": {"gates", "taps", "normalisers", "kernels"},
    "models": {"layers", "taps", "gates", "kernels"},
    "checkpoints": {"models"},
    "records": set(),
    "probes": {"taps", "records", "normalisers", "kernels"},
    "interventions": {"taps", "kernels"},
    "scope": {"taps", "probes", "records"},
    "weights": {"records", "kernels"},
    "tasks": set(),
    "sparsifiers": {"layers", "models", "kernels"},
    "surgery": {"layers", "models"},
    "policies": {"interventions", "taps", "layers", "kernels"},
    "recorder": {"scope", "probes", "records"},
    "series": {"recorder", "checkpoints", "probes", "records"},
    "recorder_bench": {"recorder", "models", "layers", "gates", "probes", "kernels"},
    "scope_bench": {"scope", "probes", "kernels"},
    "search": {"sparsifiers", "train"},
    "train": {"recorder", "models", "checkpoints", "probes", "records", "tasks"},
    "reading": {"probes", "scope", "models"},
    "intervals": set(),
    "rates": set(),
    "calibration": set(),
    "emergence": set(),
    "mixtures": {"records"},
    "clustered": {"layers", "models", "probes", "recorder", "records", "surgery", "taps", "tasks", "train"},
    "normalisers": set(),
    "hopfield": {"normalisers"},
    "recipes": {"gates", "layers", "models", "tasks", "train"},
    "binding": {"models", "probes", "records", "scope", "tasks"},
    "bytewise": {"binding", "models", "records", "scope", "tasks"},
    "recall": {"layers", "models", "tasks"},
    "studies": {
        "binding",
        "bytewise",
        "clustered",
        "gates",
        "layers",
        "mixtures",
        "models",
        "probes",
        "rates",
        "recall",
        "records",
        "recipes",
        "scope",
        "tasks",
        "train",
        "kernels",
    },
    "views": {"records", "intervals", "rates"},
    "report": {"records", "views"},
    "comparing": {"report", "records", "kernels"},
    "scan": {"report", "records", "models", "probes", "scope", "taps", "kernels"},
    "doctor": {"kernels", "models"},
    "cli": {"kernels"},
}
#: May import everything in the toolkit.
FREE_ROOMS = {"panels"}

#: Third-party packages that only these rooms import at all.
ONLY_IN = {
    "matplotlib": {"gatescope.views", "gatescope_lessons.picture"},
    "plotly": {"gatescope.views", "gatescope.panels", "gatescope_lessons.site"},
    "ipywidgets": {"gatescope.panels", "gatescope.train", "gatescope_lessons"},
    "IPython": {"gatescope.panels", "gatescope.views", "gatescope.train", "gatescope_lessons"},
    "transformers": {
        "gatescope.models",
        "gatescope.taps",
        "gatescope.scope_bench",
        "gatescope.scan",
        "gatescope_lessons.l13_scope_your_own_model",
        "gatescope_kernels.ops.routed_experts.bench",
    },
    "papermill": {"gatescope_lessons"},
    "peft": {"gatescope.surgery"},
    "mistune": {"gatescope_lessons.site"},
    "latex2mathml": {"gatescope_lessons.site"},
    "pygments": {"gatescope_lessons.site"},
    "zarr": {"gatescope.records"},
    "distributed": {"gatescope.studies"},
    "dask": {"gatescope.studies"},
    "sklearn": {"gatescope.tasks"},
    "fla": {"gatescope_kernels.ops.gated_linear_attention.bench"},
    "triton": {
        "gatescope_kernels.ops",
        "gatescope_kernels.compiled",
        "gatescope_lessons.l15_fused_gate_kernel",
    },
    "liger_kernel": {"gatescope_kernels.ops.polynorm.bench"},
}
NO_TORCH = ("gatescope.views", "gatescope.records", "gatescope.dims", "gatescope.paths", "gatescope.data")


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything a module imports, at its top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def relative(tree: ast.AST) -> bool:
    return any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


def room(name: str) -> str:
    """``gatescope.views.sinks`` -> ``views``."""
    return name.split(".")[1] if "." in name else ""


def test_imports_are_absolute(sources: list) -> None:
    assert [str(source.path) for source in sources if relative(source.tree)] == []


def test_packages_import_only_downwards(sources: list) -> None:
    wrong = [
        f"{source.path} imports {name}"
        for source in sources
        for name in imported(source.tree)
        if (package := name.split(".")[0]) in PACKAGES
        and package != (own := source.name.split(".")[0])
        and package not in PACKAGE_IMPORTS[own]
    ]
    assert wrong == []


def test_other_packages_use_the_kernels_public_api(sources: list) -> None:
    public = {"gatescope_kernels.command.Command", "gatescope_kernels.bench.Contest", "gatescope_kernels.bench.Peer"}
    wrong = [
        f"{source.path} imports {name}"
        for source in sources
        if not source.name.startswith("gatescope_kernels")
        for name in imported(source.tree)
        if name.startswith("gatescope_kernels.") and name.count(".") > 1 and name not in public
    ]
    assert wrong == []


def test_rooms_of_the_toolkit_import_only_what_the_table_allows(sources: list) -> None:
    rooms = {room(source.name) for source in sources if source.name.startswith("gatescope.")}
    assert rooms - ROOM_IMPORTS.keys() - FREE_ROOMS == set(), "a new room needs its row in ROOM_IMPORTS"
    wrong = []
    for source in sources:
        own = room(source.name)
        if source.name.split(".")[0] != "gatescope" or own in FREE_ROOMS or not own:
            continue
        for name in imported(source.tree):
            package = name.split(".")[0]
            target = "kernels" if package == "gatescope_kernels" else room(name) if package == "gatescope" else own
            if target not in {own, *EVERYBODY, *ROOM_IMPORTS[own]}:
                wrong.append(f"{source.path} imports {name}: {own} -> {target} is not in the table")
    assert wrong == []


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_heavy_package_stays_in_its_rooms(sources: list, package: str) -> None:
    wrong = [
        f"{source.path} imports {name}"
        for source in sources
        for name in imported(source.tree)
        if name.split(".")[0] == package and not source.name.startswith(tuple(ONLY_IN[package]))
    ]
    assert wrong == []


@pytest.mark.parametrize("prefix", NO_TORCH)
def test_what_only_reads_numbers_imports_no_torch(sources: list, prefix: str) -> None:
    wrong = [
        f"{source.path} imports {name}"
        for source in sources
        if source.name == prefix or source.name.startswith(f"{prefix}.")
        for name in imported(source.tree)
        if name.split(".")[0] in {"torch", "gatescope_kernels"}
    ]
    assert wrong == []


def loaded_after(statement: str, watched: set[str]) -> set[str]:
    """Which of ``watched`` a fresh process has loaded after ``statement``."""
    code = (
        f"{statement}\nimport sys, json\nprint(json.dumps([name for name in {sorted(watched)} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import gatescope, gatescope.cli, gatescope.doctor", {"torch", "xarray", "pandas", "numpy"}),
        ("import gatescope.records, gatescope.views", {"torch", "transformers", "plotly", "matplotlib", "ipywidgets"}),
        (
            "import gatescope.scope, gatescope.probes, gatescope_kernels; gatescope_kernels.gated_attention",
            {"transformers", "plotly", "matplotlib", "ipywidgets", "triton", "IPython"},
        ),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_asked_for(statement: str, heavy: set[str]) -> None:
    assert loaded_after(statement, heavy) == set()


def test_the_list_of_subcommands_needs_no_torch() -> None:
    statement = "import gatescope.cli; gatescope.cli.main([])"
    assert loaded_after(statement, {"torch", "gatescope_kernels", "gatescope_lessons"}) == set()


def test_nothing_here_can_be_imported_as_kernels(root: Path, tmp_path: Path) -> None:
    # transformers does `from kernels import ...` when it finds a regular package of that name.
    code = (
        "import importlib.util as u\nspec = u.find_spec('kernels')\n"
        "assert spec is None or spec.origin is None, spec.origin\n"
    )
    for folder in (root, tmp_path):
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("source_root", ["toolkit", "kernels", "lessons"])
def test_a_source_root_holds_one_package_and_nothing_else(root: Path, source_root: str) -> None:
    package = {"toolkit": "gatescope", "kernels": "gatescope_kernels", "lessons": "gatescope_lessons"}[source_root]
    held = {path.name for path in (root / source_root).iterdir() if path.name != "__pycache__"}
    assert held == {package}
