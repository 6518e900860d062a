"""Files of version 1 (rows of the pool, no journal) go on under this version, with a copy of them kept."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest
import torch

from sggp.bayesopt import Box, Campaign, Pool
from sggp.bayesopt.storage.journal import replay
from sggp.errors import InputError, LibraryChanged

# as version 0.1.0 wrote it
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE trials (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    batch INTEGER NOT NULL,
    source TEXT NOT NULL CHECK (source IN ('asked', 'attached')),
    state TEXT NOT NULL CHECK (state IN ('pending', 'measured', 'failed')),
    pool_row INTEGER,
    point TEXT,
    label TEXT,
    value REAL,
    reason TEXT,
    asked_at TEXT NOT NULL,
    told_at TEXT,
    CHECK ((state = 'measured') = (value IS NOT NULL)),
    CHECK (pool_row IS NOT NULL OR point IS NOT NULL)
);
CREATE UNIQUE INDEX asked_once ON trials (pool_row) WHERE source = 'asked' AND pool_row IS NOT NULL;
"""
NOON = "2026-01-02T12:00:00+00:00"
ONE = "2026-01-02T13:00:00+00:00"
TABLE = torch.randint(0, 3, (12, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def write(path, space: dict, rows: list[tuple]) -> None:
    meta = {"version": 1, "maximize": False, "space": space, "seed": 5, "num_initial": 3, "info": {"a": 1}}
    with closing(sqlite3.connect(path)) as db:
        for statement in filter(str.strip, SCHEMA.split(";")):
            db.execute(statement)
        db.executemany("INSERT INTO meta VALUES (?, ?)", [(k, json.dumps(v)) for k, v in meta.items()])
        db.executemany(
            "INSERT INTO trials (batch, source, state, pool_row, point, label, value, reason, asked_at, told_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        db.commit()


def asked(row: int, label: str | None, value: float | None) -> tuple:
    state = "pending" if value is None else "measured"
    return (1, "asked", state, row, None, label, value, None, NOON, None if value is None else ONE)


def test_a_box_goes_on_with_its_history(tmp_path):
    path = tmp_path / "c.db"
    box = Box([[0.0, 1.0], [-2.0, 2.0]])
    rows = [
        (1, "asked", "measured", None, "[0.25, 1.5]", None, 0.1 + 0.2, None, NOON, ONE),
        (1, "asked", "failed", None, "[0.5, 0.125]", None, None, "broken", NOON, ONE),
        (0, "attached", "measured", None, "[0.75, 0.0]", None, 2.0, None, NOON, NOON),
        (2, "asked", "pending", None, "[0.3, -1.0]", None, None, None, ONE, None),
    ]
    write(path, {"kind": "box", "bounds": [[0.0, 1.0], [-2.0, 2.0]]}, rows)
    before = path.read_bytes()
    campaign = Campaign(box, path)
    assert (tmp_path / "c.version1.db").exists()
    with closing(sqlite3.connect(tmp_path / "c.version1.db")) as db:
        assert db.execute("SELECT COUNT(*) FROM trials").fetchone() == (4,)
    found = campaign.results()
    assert [t.state for t in found] == ["measured", "failed", "measured", "pending"]
    assert [t.x for t in found] == [(0.25, 1.5), (0.5, 0.125), (0.75, 0.0), (0.3, -1.0)]
    assert [t.value for t in found] == [0.1 + 0.2, None, 2.0, None]
    assert [(t.batch, t.source, t.asked_at, t.told_at) for t in found] == [
        (r[0], r[1], r[8], r[9]) for r in rows
    ]
    assert (found[1].reason, found[1].policy) == ("broken", "excluded")
    assert (campaign.maximize, campaign.info, campaign.settings["seed"]) == (False, {"a": 1}, 5)
    assert replay(campaign.history())[1] == found
    assert campaign.history()[-1].data == {"from": 1, "copy": "c.version1.db"}
    campaign.tell(4, 3.0)
    assert [trial.id for trial in campaign.ask(2)] == [5, 6]
    (tmp_path / "c.version1.db").rename(tmp_path / "d.db")
    assert len(Campaign.open(tmp_path / "d.db").results()) == 4
    path.write_bytes(before)
    Campaign.open(path)
    path.write_bytes(before)
    Campaign.open(path)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["c.db", "c.version1-2.db", "c.version1.db", "d.db", "d.version1.db"]


def test_rows_without_names_need_the_pool_once_as_it_was(tmp_path):
    path = tmp_path / "c.db"
    outside = (0, "attached", "measured", None, "[9.0, 9.0, 9.0, 9.0]", None, 4.0, None, NOON, NOON)
    write(path, Pool(TABLE).describe(), [asked(4, None, 1.0), asked(7, None, None), outside])
    moved = TABLE[torch.arange(11, -1, -1)]
    with pytest.raises(InputError, match="older sggp"):
        Campaign(Pool(moved), path)
    campaign = Campaign(Pool(TABLE), path)
    keys = [trial.key for trial in campaign.results()]
    assert keys[:2] == Pool(TABLE).keys([4, 7])
    assert None not in keys
    assert [t.index for t in Campaign(Pool(moved), path).results()] == [7, 4, None]
    assert [event.what for event in campaign.history(1)] == ["asked", "told", "identified"]


def test_molecules_are_found_by_their_labels(tmp_path):
    molecules = pytest.importorskip("sggp.molecules")
    pytest.importorskip("rdkit")
    old = molecules.FingerprintTable.from_smiles(["OCC", "c1ccccc1", "CCN", "CCC"])
    path = tmp_path / "c.db"
    outside = (0, "attached", "measured", None, json.dumps([0.0] * old.width), "N#N", 4.0, None, NOON, NOON)
    rows = [asked(0, "OCC", 1.0), asked(1, "c1ccccc1", 2.0), asked(3, "CCC", None), outside]
    write(path, Pool(old).describe(), rows)
    new = Pool(molecules.FingerprintTable.from_smiles(["CC", "C1=CC=CC=C1", "N#N", "CCO"]))
    with pytest.warns(LibraryChanged, match=r"CCC \(trial 3\)"):
        campaign = Campaign(new, path)
    assert [t.key for t in campaign.results()] == ["CCO", "c1ccccc1", "CCC", "N#N"]
    assert [t.index for t in campaign.results()] == [3, 1, None, 2]
    assert [t.label for t in campaign.results()] == ["OCC", "c1ccccc1", "CCC", "N#N"]
