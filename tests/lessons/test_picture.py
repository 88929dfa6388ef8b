"""The README's picture says what the records say."""

from __future__ import annotations

from gatescope_lessons import picture


def test_the_picture_is_in_step_with_the_records():
    assert picture.problems() == []


def test_other_numbers_are_noticed(root, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text((root / "README.md").read_text(encoding="utf-8").replace("softmax 0.", "softmax 9."))
    assert [problem.split(":")[0] for problem in picture.problems(readme)] == [picture.PICTURE, "README.md"]
