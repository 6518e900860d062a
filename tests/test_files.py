"""Files appear whole or not at all, and say why where they do not."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from sggp import files
from sggp.errors import DataFileError, InputError
from sggp.files import check_target, whole_file, write_whole


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_the_block_ends(tmp_path):
    with whole_file(tmp_path / "a") as stream:
        stream.write(b"new")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"new"
    write_whole(str(tmp_path / "a"), "Ü")
    assert (tmp_path / "a").read_bytes() == "Ü".encode()
    assert _names(tmp_path) == ["a"]


def test_an_error_of_the_writer_passes_and_leaves_what_was_there(tmp_path):
    (tmp_path / "a").write_bytes(b"old")

    def broken(path: Path) -> None:
        with whole_file(path) as stream:
            stream.write(b"half")
            raise KeyError("mine")

    for path in (tmp_path / "a", tmp_path / "b"):
        with pytest.raises(KeyError, match="mine"):
            broken(path)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert _names(tmp_path) == ["a"]


@pytest.mark.parametrize("place", ["missing/a", "", "file/a"])
def test_a_place_that_cannot_hold_a_file_is_named(tmp_path, place):
    (tmp_path / "file").write_bytes(b"")
    path = tmp_path / place
    for write in (check_target, lambda p: write_whole(p, "x")):
        with pytest.raises(DataFileError, match=re.escape(str(path))):
            write(path)
    assert _names(tmp_path) == ["file"]


@pytest.mark.parametrize("path", [None, 3, b"a", ["a"]])
def test_what_is_no_path_is_refused(path):
    for write in (check_target, lambda p: write_whole(p, "x")):
        with pytest.raises(InputError, match="path must be a path, got"):
            write(path)


def test_no_permission(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")  # as root, the mode of a folder refuses nothing

    monkeypatch.setattr("sggp.files.tempfile.TemporaryFile", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    for write in (check_target, lambda p: write_whole(p, "x")):
        with pytest.raises(DataFileError, match=r"a: Permission denied.*choose another folder"):
            write(tmp_path / "a")


def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path):
    resource = pytest.importorskip("resource")
    (tmp_path / "a").write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with (
            pytest.raises(DataFileError, match=r"a: File too large.*is unchanged"),
            whole_file(tmp_path / "a") as f,
        ):
            f.write(b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "a").read_bytes() == b"old"
    assert _names(tmp_path) == ["a"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("x")
    write_whole(tmp_path / "whole", "x")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_folder_is_forced_to_disk_after_the_file(tmp_path, monkeypatch):
    """Else a power cut may leave the old name."""
    forced, target = [], tmp_path / "a"

    def note(descriptor):
        forced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), target.exists()))

    monkeypatch.setattr(files.os, "fsync", note)
    write_whole(target, "text")
    assert forced == [(False, False), (True, True)]
