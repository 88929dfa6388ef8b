"""data/ and the paths under it: every file as its manifest says, every write all or nothing."""

import errno
import os
from pathlib import Path

import pytest
from gatescope import data, paths
from gatescope.errors import DataError, Refusal

NOTE = {"licence": "Apache-2.0", "made_by": "python -m nothing", "description": 'a "quoted" note \\ with é'}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "data" / "measured").mkdir(parents=True)
    monkeypatch.setenv("GATESCOPE_ROOT", str(tmp_path))
    for name, text in (("b.txt", "bee"), ("measured/a.json", "{}")):
        (tmp_path / "data" / name).write_text(text)
        data.register(name, **NOTE)
    return tmp_path / "data"


def test_the_shipped_folder_is_as_its_manifest_says():
    assert data.audit() == []


def test_a_registered_file_comes_back_and_its_row_says_where_it_came_from(folder):
    assert data.path("b.txt").read_text() == "bee"
    row = data.rows()["b.txt"]
    assert (row.bytes, row.licence, row.description) == (3, NOTE["licence"], NOTE["description"])
    assert data.audit() == []


def test_the_manifest_does_not_depend_on_the_order_of_registering(folder):
    first = (folder / data.MANIFEST).read_bytes()
    (folder / data.MANIFEST).unlink()
    for name in ("measured/a.json", "b.txt", folder / "b.txt"):
        data.register(name, **NOTE)
    assert (folder / data.MANIFEST).read_bytes() == first
    assert list(data.rows()) == ["b.txt", "measured/a.json"]


def test_a_changed_file_is_refused_with_both_digests_and_the_way_back(folder):
    wanted = data.path("b.txt") and data.rows()["b.txt"].sha256
    (folder / "b.txt").write_text("wasp")
    with pytest.raises(DataError) as caught:
        data.path("b.txt")
    for part in ("data/b.txt", wanted, paths.file_sha256(folder / "b.txt"), "git checkout", NOTE["made_by"]):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("break_it", "call", "words"),
    [
        (lambda f: (f / "b.txt").unlink(), lambda: data.path("b.txt"), "no such file"),
        (lambda f: None, lambda: data.path("c.txt"), "'c.txt'; choose one of"),
        (lambda f: (f / data.MANIFEST).write_text("[[file"), lambda: data.path("b.txt"), "git checkout"),
        (lambda f: (f / data.MANIFEST).write_text('[[file]]\npath = "b.txt"\n'), data.rows, "missing.* required"),
        (lambda f: None, lambda: data.register("d.txt", **NOTE), "write it first"),
    ],
    ids=["missing file", "unknown name", "broken manifest", "short row", "register nothing"],
)
def test_data_errors_say_what_to_do(folder, break_it, call, words):
    break_it(folder)
    with pytest.raises(DataError, match=words):
        call()


@pytest.mark.parametrize(
    ("name", "note", "words"),
    [
        ("weights.pt", NOTE, "one of these formats"),
        ("../outside.txt", NOTE, "a file inside"),
        ("b.txt", {**NOTE, "licence": " "}, "one printable line as licence"),
        ("b.txt", {**NOTE, "made_by": "a\nb"}, "one printable line as made_by"),
    ],
)
def test_register_refuses(folder, name, note, words):
    (folder / name).touch()
    with pytest.raises(Refusal, match=words):
        data.register(name, **note)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "new.txt").touch(), "new.txt: no row"),
        (lambda f: (f / "new.pkl").touch(), "new.pkl: only visible files"),
        (lambda f: (f / ".b.tmp.txt").touch(), ".b.tmp.txt: only visible files"),
        (lambda f: (f / "new.txt").symlink_to(f / "b.txt"), "new.txt: a link"),
        (lambda f: (f / "b.txt").unlink(), "b.txt: a row without a file"),
        (lambda f: (f / "b.txt").write_text("wasp"), "b.txt: sha256"),
        (lambda f: (f / data.MANIFEST).write_text((f / data.MANIFEST).read_text() + "\n"), "not as data.register"),
    ],
)
def test_audit_names_each_fault_and_only_it(folder, change, words):
    change(folder)
    (problem,) = data.audit()
    assert words in problem


def test_roots_and_caches_follow_the_environment(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("GATESCOPE_ROOT", str(tmp_path))
    monkeypatch.delenv("GATESCOPE_CACHE", raising=False)
    assert (paths.data_dir(), paths.cache_dir()) == (tmp_path / "data", tmp_path / ".cache")
    monkeypatch.setenv("GATESCOPE_CACHE", str(tmp_path / "elsewhere"))
    assert paths.cache_dir() == tmp_path / "elsewhere"
    monkeypatch.setenv("GATESCOPE_ROOT", str(tmp_path / "data"))
    with pytest.raises(Refusal, match=r"GATESCOPE_ROOT\) without one; set GATESCOPE_ROOT"):
        paths.repo_root()


def test_atomic_write_keeps_the_old_file_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "deep" / "x.txt"
    with paths.atomic_write(target) as temporary:
        temporary.write_text("old")
        assert temporary.parent == target.parent
        assert not target.exists()
    with pytest.raises(KeyError), paths.atomic_write(target) as temporary:
        raise KeyError(temporary.write_text("half of the n"))
    assert [file.name for file in target.parent.iterdir()] == ["x.txt"]
    assert target.read_text() == "old"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "disk full"), "No space left on device'; free space"),
        (PermissionError(errno.EACCES, "no"), "Permission denied'; allow writing"),
        (RuntimeError("Error while serializing: I/O error: ... (os error 28)"), "No space left on device'; free space"),
        (RuntimeError("unable to create file (errno = 13, ...)"), "Permission denied'; allow writing"),
    ],
    ids=["full disk", "no permission", "full disk told by safetensors", "no permission told by HDF5"],
)
def test_what_the_disk_refuses_becomes_a_data_error_that_leaves_nothing(tmp_path, error, words):
    with pytest.raises(DataError, match=words), paths.atomic_write(tmp_path / "x.txt"):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_data_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="allow writing"), paths.atomic_write(tmp_path / "file" / "x.txt"):
        pytest.fail("the block must not run")


def test_an_error_about_another_file_passes_unchanged(tmp_path):
    with pytest.raises(PermissionError), paths.atomic_write(tmp_path / "x.txt"):
        raise PermissionError(errno.EACCES, "no", "/etc/shadow")


def test_digests_are_of_the_bytes_and_notice_a_change(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"abc")
    assert paths.file_sha256(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4
    file.write_bytes(b"abd")
    os.utime(file, ns=(1, 1))
    assert paths.file_sha256(Path(file)) == "a52d159f262b2c6ddb724a61840befc36eb30c88877a4030b65cbe86298449c9"
