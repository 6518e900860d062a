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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are those of POSIX")
@pytest.mark.parametrize("name", ["pipe", "link"])
def test_a_pipe_or_device_is_not_replaced(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")  # as /dev/null, whose place a file would take where root writes
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for write in (check_target, lambda p: write_whole(p, "x")):
        with pytest.raises(DataFileError, match=f"{name}: it is a device or a pipe"):
            write(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()
    assert _names(tmp_path) == ["link", "pipe"]


def test_a_link_leads_to_the_file_that_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "a").symlink_to(Path("there") / "b")
    for content in (b"new", b"newer"):  # the first makes it
        write_whole(tmp_path / "a", content)
        assert (tmp_path / "there" / "b").read_bytes() == content
    assert (tmp_path / "a").is_symlink()
    (tmp_path / "lost").symlink_to(tmp_path / "missing" / "b")
    with pytest.raises(DataFileError, match=r"lost: the folder .*missing does not exist"):
        write_whole(tmp_path / "lost", b"x")


def test_permissions_outlast_a_new_content(tmp_path):
    write_whole(tmp_path / "a", b"old")
    (tmp_path / "a").chmod(0o640)
    write_whole(tmp_path / "a", b"new")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == (0o640 if os.name == "posix" else 0o666)


def test_names_of_many_bytes(tmp_path):
    name = "模" * 80  # 240 bytes of 255
    write_whole(tmp_path / name, b"x")
    assert _names(tmp_path) == [name]
    for wrong in ("x" * 300, "a\0b"):
        for write in (check_target, lambda p: write_whole(p, "x")):
            with pytest.raises(DataFileError, match="choose another path"):
                write(tmp_path / wrong)


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/new.csv", "/dev/fd/1", "/proc/self/fd/1"])
def test_a_stream_is_no_file_where_it_leads_to_one(path, capfd):
    """`--out /dev/stdout > p.csv` took the place of the shell's file, with a list of rows beside /dev/stdout."""
    with pytest.raises(DataFileError, match="a device or a pipe; give the path of a file"):
        check_target(Path(path))
