"""One lesson.py gives two notebooks, and `build.check` names everything that is out of step."""

from __future__ import annotations

import json

import nbformat
import pytest
from gatescope.errors import Refusal
from gatescope_lessons import build
from gatescope_lessons.lesson_kit import EDITIONS


def cells(demo, edition):
    return nbformat.read(demo.shelf.notebook(demo.folder, edition), as_version=4).cells


def sources(demo, edition):
    return "\n".join(cell.source for cell in cells(demo, edition))


def test_the_editions_differ_in_exercise_and_solution_only(demo):
    build.write(demo.shelf)
    exercise, solution = sources(demo, "exercise"), sources(demo, "solution")
    assert "return ..." in exercise
    assert "return 2 * x" not in exercise
    assert "return 2 * x" in solution
    assert "return ..." not in solution
    shared = [{cell.source for cell in cells(demo, edition)} for edition in EDITIONS]
    assert len(shared[0] ^ shared[1]) == 4  # the head and the answer of each


def test_the_head_is_built_from_the_metadata(demo):
    build.write(demo.shelf)
    head = cells(demo, "exercise")[0].source
    for wanted in (
        "# 1. How much is twice?",
        "20 minutes · beginner",
        "- You can count.",
        "- double a number",
        "- say why",
    ):
        assert wanted in head
    assert "(solutions/01_demo.ipynb)" in head
    assert "(../01_demo.ipynb)" in cells(demo, "solution")[0].source


def test_consecutive_hints_become_one_ladder(demo):
    build.write(demo.shelf)
    (ladder,) = (cell for cell in cells(demo, "exercise") if "hint" in cell.metadata.get("tags", []))
    assert ladder.source.count("<details>") == ladder.source.count("</details>") == 2
    assert "<summary>Hint 1</summary>\n\nTwo of them.\n\n</details>" in ladder.source
    assert "<summary>Hint 2</summary>\n\n`2 * x`\n\n</details>" in ladder.source


def test_a_notebook_has_a_kernel_and_no_outputs_and_is_the_same_every_time(demo):
    build.write(demo.shelf)
    path = demo.shelf.notebook(demo.folder, "exercise")
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert all(
        not cell["outputs"] and cell["execution_count"] is None
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    )
    assert text.endswith("}\n")
    path.unlink()
    assert build.write(demo.shelf) == [path]
    assert path.read_text(encoding="utf-8") == text
    assert build.write(demo.shelf) == []


def test_only_the_changed_cell_gets_another_id(demo):
    build.write(demo.shelf)
    before = {cell.id for cell in cells(demo, "exercise")}
    demo.change(("Some **prose**", "Other **prose**"))
    build.write(demo.shelf)
    after = {cell.id for cell in cells(demo, "exercise")}
    assert len(before) == len(cells(demo, "exercise"))
    assert len(before - after) == len(after - before) == 1


def test_twin_cells_get_ids_of_their_own(demo):
    demo.append("print(1)", "print(1)")
    ids = [cell.id for cell in cells(demo, "exercise")]
    assert len(set(ids)) == len(ids)


BAD = {
    "an unknown tag": (('tags=["parameters"]', 'tags=["parameters", "slow"]'), "slow"),
    "an unknown key": (('# %% tags=["parameters"]', '# %% tags=["parameters"] tag="x"'), "tag"),
    "no parameters": (('tags=["parameters"]', ""), "one parameters cell"),
    "no profile": (('profile = "quick"', 'speed = "quick"'), "profile set"),
    "an exercise without a blank": (("return ...", "return None"), "a blank `...`"),
    "an exercise that is not Python": (
        ("def double(x):\n    return ...", "def double(x:\n    return ..."),
        "Python in cell",
    ),
    "a solution missing": (('# %% tags=["solution"]', "# %%"), "as many exercise cells"),
    "a second h1": (("# ## Prediction", "# # Prediction"), "level 1"),
    "a jump of headings": (("# ### Your turn", "# #### Your turn"), "level 4"),
    "a hint in code": (('# %% [markdown] tags=["hint"]\n# Two', '# %% tags=["hint"]\n# Two'), "as markdown"),
    "an empty cell": (("# ### Your turn", "#"), "with content"),
}


@pytest.mark.parametrize(("change", "told"), BAD.values(), ids=BAD)
def test_a_bad_source_is_refused_with_its_cell(demo, change, told):
    demo.change(change)
    with pytest.raises(Refusal, match=r"l01_demo/lesson\.py: wanted") as caught:
        build.write(demo.shelf)
    assert told in str(caught.value)
    assert build.check(demo.shelf)[0] == str(caught.value)
    assert not demo.shelf.notebooks.exists()


def test_headings_inside_code_fences_are_code(demo):
    demo.change(("# Some **prose** with x < y.", "# ```\n# # a comment\n# ```"))
    build.write(demo.shelf)


def test_check_of_one_lesson_is_not_held_up_by_another(demo):
    build.write(demo.shelf)
    (demo.shelf.folder / "l02_unwritten").mkdir()
    (demo.shelf.folder / "l02_unwritten" / "__init__.py").touch()
    assert len(build.check(demo.shelf)) == 1
    assert build.check(demo.shelf, ["l01_demo"]) == []
    assert len(build.check(demo.shelf, ["l02_unwritten"])) == 1
    demo.change(("# Some **prose** with x < y.", "# Other prose."))
    assert len(build.write(demo.shelf, ["l01_demo"])) == 2


def test_check_is_empty_once_built_and_names_what_is_out_of_step(demo):
    assert len(build.check(demo.shelf)) == 2
    build.write(demo.shelf)
    assert build.check(demo.shelf) == []
    path = demo.shelf.notebook(demo.folder, "solution")
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["cells"][3]["source"] = ["edited by hand"]
    path.write_text(json.dumps(notebook), encoding="utf-8")
    (problem,) = build.check(demo.shelf)
    assert problem.startswith("notebooks/solutions/01_demo.ipynb: differs from cell 4 on; run `gatescope build`")


def test_executed_outputs_are_out_of_step(demo):
    build.write(demo.shelf)
    path = demo.shelf.notebook(demo.folder, "exercise")
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    code["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["hello\n"]}]
    path.write_text(json.dumps(notebook), encoding="utf-8")
    assert "outputs, metadata or the number of cells differ" in build.check(demo.shelf)[0]


def test_a_lesson_folder_without_source_and_a_stray_notebook_are_problems(demo):
    build.write(demo.shelf)
    (demo.shelf.notebooks / "07_stray.ipynb").write_text("{}")
    (demo.shelf.folder / "l02_empty").mkdir()
    (demo.shelf.folder / "l02_empty" / "lab.py").touch()
    problems = "\n".join(build.check(demo.shelf))
    assert "lessons/l02_empty: wanted a lesson.py" in problems
    assert "07_stray.ipynb: no lesson folder builds this notebook" in problems


def test_a_lesson_without_metadata_is_a_problem(demo):
    demo.write("__init__.py", "")
    assert "wanted LESSON = Lesson(...), got no LESSON" in build.check(demo.shelf)[0]


def test_the_notebooks_of_this_project_are_in_step():
    assert build.check() == []
