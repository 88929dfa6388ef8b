"""`gatescope bundle`: the course as one zip, for learners without solutions, for teachers with what that one lacks.

gatescope bundle course.zip
gatescope bundle course-teacher.zip --for teacher
"""

from __future__ import annotations

import zipfile
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path

from gatescope import __version__
from gatescope.errors import Refusal
from gatescope.paths import atomic_write, file_sha256
from gatescope_kernels.command import Command

from gatescope_lessons.lesson_kit import own_shelf

#: The folder that the zips unpack into; the teacher's lies over the learner's.
FOLDER = f"gatescope-course-{__version__}"
_AT = (1980, 1, 1, 0, 0, 0)


def write_zip(path: Path, files: Mapping[str, bytes], folder: str = FOLDER) -> None:
    """Write ``files`` below ``folder`` into a zip: the same bytes for the same files on every machine.

    Sorted, dated alike, and not compressed, since compressed bytes hang on the version of zlib and weights hardly
    shrink. Written whole or not at all.
    """
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as file:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(f"{folder}/{name}", _AT)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # a plain file, as Unix writes it
            file.writestr(entry, content)


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT.zip", help="where to write")
    parser.add_argument(
        "--for",
        dest="reader",
        choices=("learner", "teacher"),
        default="learner",
        help="teacher: the solutions and notes that the learner's lacks, to unpack over it",
    )


def _run(arguments: Namespace) -> int:
    from gatescope_lessons.bundle.contents import learner_files, teacher_files

    if arguments.out.suffix != ".zip":
        raise Refusal("bundle", "a file that ends in .zip", str(arguments.out), "name it so")
    files = {"learner": learner_files, "teacher": teacher_files}[arguments.reader](own_shelf())
    write_zip(arguments.out, files)
    size = sum(map(len, files.values())) / 1e6
    print(f"{arguments.out}: {len(files)} files, {size:.1f} MB, for the {arguments.reader}")
    print(f"sha256 {file_sha256(arguments.out)}")
    return 0


COMMAND = Command("the course as one zip: for learners without solutions, for teachers the rest", _configure, _run)
