"""Campaign files that are damaged, foreign, locked or cut short: refused in words, and left as they are."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing, contextmanager, suppress

import pytest

from sggp.bayesopt import Box, Campaign
from sggp.bayesopt.storage import SQLiteStorage, sqlite
from sggp.errors import DataFileError, InputError

BOX = Box([[0.0, 1.0], [-2.0, 2.0]])


@pytest.fixture
def path(tmp_path):
    """A file with 60 measurements, several pages of them; the next points need no model."""
    path = tmp_path / "c.db"
    campaign = Campaign(BOX, path, maximize=True, seed=1, num_initial=1000)
    campaign.attach_many([([i / 100, 0.5], float(i)) for i in range(60)])
    return path


def run(path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("CREATE TRIGGER mouse AFTER INSERT ON trials BEGIN DELETE FROM trials; END", "trigger mouse"),
        ("CREATE TRIGGER rat BEFORE UPDATE ON trials BEGIN SELECT RAISE(IGNORE); END", "trigger rat"),
        ("CREATE VIEW notes AS SELECT * FROM trials", "view notes"),
        ("CREATE TABLE notes (a)", "table notes"),
        ("CREATE INDEX quick ON trials (value)", "index quick"),
        ("ALTER TABLE trials ADD COLUMN mine TEXT", "table trials"),
    ],
)
def test_what_is_foreign_in_a_file_is_refused_by_name(path, statement, name):
    campaign = Campaign.open(path)
    run(path, statement)
    content = path.read_bytes()
    for attempt in (lambda: campaign.ask(1), campaign.results, lambda: Campaign(BOX, path)):
        with pytest.raises(DataFileError, match=name):
            attempt()
    assert path.read_bytes() == content


def test_a_dropped_table_is_refused(path):
    run(path, "DROP TABLE journal")
    with pytest.raises(DataFileError, match="missing"):
        Campaign.open(path)


def opened(path):
    """The trials of a file, None where it is refused."""
    with suppress(DataFileError):
        return Campaign.open(path).results()
    return None


def test_no_damage_makes_a_smaller_campaign(path):
    whole = Campaign.open(path).results()
    content = bytearray(path.read_bytes())
    page = 4096
    assert len(content) > 8 * page
    pages = range(0, len(content), page)
    severe = [content[: len(content) // 2], content[:-page], content[: 3 * page + 17]]
    severe += [content[:start] + bytes(page) + content[start + page :] for start in pages]
    slight = [content[: start + 200] + b"\xff" * 60 + content[start + 260 :] for start in pages]
    for start in pages:
        slight.append(bytearray(content))
        slight[-1][start + page - 9] ^= 4
    for number, damage in enumerate([*severe, *slight]):
        other = path.with_name(f"{number}.db")
        other.write_bytes(damage)
        if number >= len(severe) and opened(other) == whole:  # it fell on bytes that nothing is kept in
            continue
        with pytest.raises(DataFileError, match=rf"{number}\.db") as caught:
            Campaign.open(other)
        assert str(caught.value).startswith((f"{other} is", f"cannot use {other}"))
        assert other.read_bytes() == damage


def test_a_creation_that_was_cut_short_is_done_again(tmp_path):
    """A file with a hot journal, as a process leaves it that is killed while it creates one; and an empty file."""
    half = tmp_path / "half.db"
    with closing(sqlite3.connect(half, isolation_level=None)) as db:
        db.execute("PRAGMA cache_size = 2")
        db.execute("BEGIN IMMEDIATE")
        db.execute("CREATE TABLE meta (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL)")
        db.executemany("INSERT INTO meta VALUES (?, ?)", [(str(i), "x" * 3000) for i in range(20)])
        for suffix in ("", "-journal"):
            shutil.copy(f"{half}{suffix}", tmp_path / f"cut.db{suffix}")
    assert (tmp_path / "cut.db").stat().st_size > 0
    (tmp_path / "empty.db").touch()
    run(tmp_path / "bare.db", "CREATE TABLE t (a)", "DROP TABLE t")
    for name in ("cut.db", "empty.db", "bare.db"):
        assert not SQLiteStorage(tmp_path / name).exists
        campaign = Campaign(BOX, tmp_path / name, maximize=True, seed=1)
        assert len(campaign.ask(2)) == len(Campaign.open(tmp_path / name).results()) == 2


def limited(store: SQLiteStorage, *pragmas: str) -> None:
    """Every connection of this storage begins with these."""
    connect = store._connect

    @contextmanager
    def connect_limited(*arguments):
        with connect(*arguments) as db:
            for pragma in pragmas:
                db.execute(f"PRAGMA {pragma}")
            yield db

    store._connect = connect_limited


@pytest.mark.parametrize(
    ("pragma", "said"), [("max_page_count = 1", "disk is full"), ("query_only = ON", "read-only")]
)
def test_a_disk_that_is_full_or_read_only_is_named(path, pragma, said):
    campaign = Campaign.open(path)
    before = campaign.results()
    limited(campaign.store, pragma)
    for attempt in (lambda: campaign.ask(200), lambda: campaign.attach_many([([0.5, 0.5], 1.0)] * 300)):
        with pytest.raises(DataFileError, match=said):
            attempt()
    assert campaign.results() == before
    assert len(Campaign.open(path).ask(3)) == 3


def test_a_locked_file_is_named_and_can_be_read_by_others(path, monkeypatch):
    monkeypatch.setattr(sqlite, "_WAIT_SECONDS", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert len(Campaign.open(path).results()) == 60
        with pytest.raises(DataFileError, match="another program keeps it locked"):
            Campaign.open(path).ask(1)
        other.execute("COMMIT")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DataFileError, match="another program keeps it locked"):
            Campaign.open(path).results()
    assert len(Campaign.open(path).ask(1)) == 1


def test_permissions_are_named(path):
    path.chmod(0o400)
    if os.access(path, os.W_OK):
        pytest.skip("permissions do not bind this user")
    campaign = Campaign.open(path)
    with pytest.raises(DataFileError, match="read-only"):
        campaign.ask(1)
    path.chmod(0o600)
    path.parent.chmod(0o500)
    try:
        with pytest.raises(DataFileError, match=r"read-only|cannot be opened"):
            campaign.ask(1)
        with pytest.raises(DataFileError, match="cannot be opened"):
            Campaign(BOX, path.with_name("new.db"), maximize=True)
    finally:
        path.parent.chmod(0o700)
    path.chmod(0)
    with pytest.raises(DataFileError, match="cannot read"):
        Campaign.open(path)


def test_files_of_others_are_refused_and_left(tmp_path):
    run(tmp_path / "other.db", "CREATE TABLE songs (name)", "INSERT INTO songs VALUES ('x')")
    (tmp_path / "text.db").write_text("notes\n" * 400)
    (tmp_path / "short.db").write_text("n")
    (tmp_path / "folder.db").mkdir()
    for name in ("other.db", "text.db", "short.db"):
        content = (tmp_path / name).read_bytes()
        with pytest.raises(DataFileError, match="not an sggp campaign"):
            Campaign(BOX, tmp_path / name, maximize=True)
        assert (tmp_path / name).read_bytes() == content
    with pytest.raises(DataFileError, match="a folder or a device"):
        Campaign(BOX, tmp_path / "folder.db", maximize=True)
    with pytest.raises(DataFileError, match="no campaign"):
        Campaign.open(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()


def test_a_newer_version_is_named(path):
    run(path, "UPDATE meta SET value = '3' WHERE name = 'version'", "CREATE TABLE more (a)")
    with pytest.raises(DataFileError, match="version 3; this sggp reads"):
        Campaign.open(path)


def test_a_file_is_one_file(path):
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    Campaign.open(path).ask(1)
    assert [file.name for file in path.parent.iterdir()] == ["c.db"]
    shutil.copy(path, path.with_name("copy of 50% #1?.db"))
    assert len(Campaign.open(path.with_name("copy of 50% #1?.db")).results()) == 61


def test_an_export_overwrites_no_campaign(path, tmp_path):
    Campaign(BOX, tmp_path / "other.db", maximize=True)
    campaign = Campaign.open(path)
    before = path.read_bytes()
    for target in (path, tmp_path / "other.db"):
        with pytest.raises(DataFileError, match="is a database"):
            campaign.export(target)
    assert path.read_bytes() == before
    assert len(Campaign.open(path).results()) == 60
    assert Campaign.open(tmp_path / "other.db").results() == []


def test_an_objective_may_change_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    campaign = Campaign(BOX, "c.db", maximize=True, seed=1)

    def objective(trial):
        os.chdir(tmp_path / "work")
        return float(trial.id)

    campaign.run(objective, budget=2)
    assert [t.value for t in Campaign.open(tmp_path / "c.db").results()] == [1.0, 2.0]
    assert campaign.store.name == "c.db"


@pytest.mark.parametrize("storage", ["", ":memory:"])
def test_a_storage_that_is_no_file_is_refused(tmp_path, monkeypatch, storage):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="kept in a file"):
        Campaign(BOX, storage, maximize=True)
    assert list(tmp_path.iterdir()) == []
