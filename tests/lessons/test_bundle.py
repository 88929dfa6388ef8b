"""The course for learners: everything it needs to run, no solution, the same bytes twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jupytext
import pytest
from gatescope import data
from gatescope.errors import Refusal
from gatescope_lessons import build
from gatescope_lessons.bundle.command import COMMAND, FOLDER, write_zip
from gatescope_lessons.bundle.contents import SUMS, learner_files, teacher_files, without_solutions
from gatescope_lessons.lesson_kit import own_shelf
from gatescope_lessons.progress import progress

TEXT = (".py", ".md", ".toml", ".ipynb", ".yml", ".js", ".css", ".txt")
ASK = """
import json
from gatescope import data
from gatescope.paths import repo_root
from gatescope_lessons.claims_ledger import evaluate
from gatescope_lessons.progress import progress

todo = {each.folder: [each.count("exercise")[1], each.count("prediction")[1]] for each in progress()}
print(json.dumps({"root": str(repo_root()), "todo": todo, "data": data.audit()}))
"""


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return learner_files(own_shelf())


@pytest.fixture(scope="module")
def unpacked(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The course as a learner has it, through the zip."""
    folder = tmp_path_factory.mktemp("learner")
    write_zip(folder / "course.zip", files)
    shutil.unpack_archive(folder / "course.zip", folder)
    return folder / FOLDER


def code_of(notebook: bytes) -> str:
    cells = json.loads(notebook)["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_every_lesson_is_there_as_exercises_without_outputs(files: dict[str, bytes]) -> None:
    shelf = own_shelf()
    notebooks = {name: json.loads(content) for name, content in files.items() if name.endswith(".ipynb")}
    assert notebooks.keys() == {f"notebooks/{folder[1:]}.ipynb" for folder in shelf.folders()}
    for notebook in notebooks.values():
        assert [cell for cell in notebook["cells"] if cell.get("outputs")] == []
        assert {tag for cell in notebook["cells"] for tag in cell["metadata"].get("tags", [])} >= {"exercise"}


def test_no_file_is_or_holds_a_solution(files: dict[str, bytes]) -> None:
    assert [name for name in files if re.search(r"solutions?/|teaching", name.lower().replace("teaching.py", ""))] == []
    texts = {name: content.decode() for name, content in files.items() if name.endswith(TEXT)}
    shelf = own_shelf()
    seen = 0
    for folder in shelf.folders():
        cells = jupytext.reads(shelf.source(folder).read_text(encoding="utf-8"), fmt="py:percent").cells
        solved = [cell.source for cell in cells if "solution" in cell.metadata.get("tags", [])]
        asked = {line for cell in cells if "solution" not in cell.metadata.get("tags", []) for line in lines(cell)}
        code = code_of(files[f"notebooks/{folder[1:]}.ipynb"])
        for solution in solved:
            seen += 1
            assert [name for name, text in texts.items() if solution in text] == [], folder
            given = {line for line in solution.splitlines() if len(line.strip()) > 12} - asked
            assert [line for line in given if line in code or line in texts[lesson(folder)]] == [], folder
    assert seen > 30


def lines(cell) -> list[str]:
    return cell.source.splitlines()


def lesson(folder: str) -> str:
    return f"lessons/gatescope_lessons/{folder}/lesson.py"


def test_nothing_points_to_solutions_that_are_not_there(files: dict[str, bytes]) -> None:
    for name, content in files.items():
        if name.endswith(("lesson.py", ".ipynb")):
            assert b"solutions/" not in content, name


def test_a_cell_is_cut_by_its_tag_alone() -> None:
    source = (
        '# %% [markdown]\n# A solution is near.\n\n# %% tags=["exercise"]\nx = ...\n\n'
        '# %% tags=["solution"]\nx = 1\n\n# %% [markdown] tags=["solution"]\n# It is 1.\n\n# %%\ny = "solution"\n'
    )
    assert without_solutions(source) == (
        '# %% [markdown]\n# A solution is near.\n\n# %% tags=["exercise"]\nx = ...\n\n# %%\ny = "solution"\n'
    )


def test_the_digests_are_those_of_the_files(unpacked: Path) -> None:
    tool = shutil.which("sha256sum") or shutil.which("shasum")
    assert tool, "sha256sum is needed"
    command = [tool, *(["-a", "256"] if tool.endswith("shasum") else []), "-c", SUMS]
    done = subprocess.run(command, cwd=unpacked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    listed = {line.split("  ", 1)[1] for line in (unpacked / SUMS).read_text().splitlines()}
    assert listed == {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()} - {SUMS}


def test_the_same_course_is_the_same_bytes(files: dict[str, bytes], tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", files)
    write_zip(tmp_path / "b.zip", dict(reversed(learner_files(own_shelf()).items())))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_course_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_zip(tmp_path / "course.zip", {"a": b"old"})
    with pytest.raises(TypeError):
        write_zip(tmp_path / "course.zip", {"a": b"new", "b": None})  # type: ignore[dict-item]
    with zipfile.ZipFile(tmp_path / "course.zip") as kept:
        assert kept.read(f"{FOLDER}/a") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["course.zip"]


def test_the_unpacked_course_knows_its_lessons_and_its_data(unpacked: Path, tmp_path: Path) -> None:
    roots = os.pathsep.join(str(unpacked / room) for room in ("toolkit", "kernels", "lessons"))
    env = {name: value for name, value in os.environ.items() if not name.startswith("GATESCOPE_")}
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=tmp_path,
        env={**env, "PYTHONPATH": roots},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["root"] == str(unpacked)
    assert found["data"] == []
    assert found["todo"] == {p.folder: [p.count("exercise")[1], p.count("prediction")[1]] for p in progress()}


def test_the_unpacked_course_can_be_set_up(unpacked: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, 'scripts'); import bootstrap, setup_steps, lab_launch\n"
        "from pathlib import Path\n"
        "place = setup_steps.Place.here()\n"
        "print(place.root)\n"
        "print([c.name for c in lab_launch.copy_notebooks(place.root / 'notebooks', Path(sys.argv[1]))])\n"
        "import hatchling.build; print(hatchling.build.build_editable(sys.argv[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=unpacked, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    root, copied, wheel = done.stdout.splitlines()[:3]
    assert root == str(unpacked)
    assert copied == str(sorted(f"{folder[1:]}.ipynb" for folder in own_shelf().folders()))
    with zipfile.ZipFile(tmp_path / wheel) as built:
        [pth] = [name for name in built.namelist() if name.endswith(".pth")]
        assert sorted(built.read(pth).decode().split()) == [
            str(unpacked / room) for room in ("kernels", "lessons", "toolkit")
        ]


def test_make_help_lists_what_a_course_can_do(unpacked: Path, root: Path) -> None:
    listed = [
        subprocess.run(["make", "help"], cwd=folder, capture_output=True, text=True, check=True).stdout
        for folder in (unpacked, root)
    ]
    course, clone = ({line.split()[0] for line in text.splitlines()} for text in listed)
    assert {"lab", "notebooks"} <= course
    assert clone - course == {"test", "latency", "site", "lint"}


def test_the_teachers_part_makes_the_course_whole(root: Path) -> None:
    shelf = own_shelf()
    found = teacher_files(shelf)
    for folder in shelf.folders():
        for name in ("lesson.py", "teaching.md"):
            path = f"lessons/gatescope_lessons/{folder}/{name}"
            assert found[path] == (root / path).read_bytes()
        for path, text in build.built(shelf, folder).items():
            assert found[path.relative_to(root).as_posix()].decode() == text
    assert b"Misconceptions" in found["TEACHING.md"]
    assert not [name for name in found if name.startswith("data/")]


def test_the_name_says_what_it_is(tmp_path: Path) -> None:
    from argparse import Namespace

    with pytest.raises(Refusal, match=r"ends in \.zip"):
        COMMAND.run(Namespace(out=tmp_path / "course.tar", reader="learner"))
    assert data.rows()
