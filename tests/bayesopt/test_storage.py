"""Every kind of storage keeps one journal, and the trials that follow from it."""

from __future__ import annotations

import pickle
import sys

import pytest

from sggp.bayesopt.storage import Draft, Moved, SQLiteStorage, Storage, open_storage
from sggp.bayesopt.storage.journal import replay
from sggp.errors import DataFileError, DtypeError, InputError, MissingExtra

META = {
    "maximize": True,
    "space": {"kind": "box"},
    "seed": 1,
    "num_initial": 2,
    "info": {"a": [1, None, "é"]},
}
ASKED = [
    Draft("asked", data={"x": [0.1, 1 / 3], "why": "spread"}),
    Draft("asked", data={"x": [0.2, -1e-300]}),
]


def told(trial: int, value: float, what: str = "told", reason: str | None = None) -> Draft:
    return Draft(what, trial, {"values": {"value": [value]}}, reason)


@pytest.fixture
def store(place) -> Storage:
    store = open_storage(place)
    assert not store.exists
    store.create(META)
    return store


def test_the_trials_are_what_the_journal_says(store, place):
    store.append(ASKED)
    store.append([told(1, 0.1 + 0.2), Draft("failed", 2, {"policy": "retry", "cost": 2.5}, "no signal ✗")])
    attached = {"x": [0.5] * 2048, "label": "CCO", "key": "CCO", "values": {"value": [10.0, 0.5, "above"]}}
    store.append([Draft("attached", data=attached), told(1, 7.0, "amended", "misread")])
    store.append([Draft("withdrawn", 1, reason="wrong vial"), Draft("settings", data={"info": {"b": 2}})])
    snapshot = store.snapshot()
    meta, trials = replay(store.events())
    assert (meta, trials) == (store.meta(), snapshot.trials)
    assert meta["info"] == {"a": [1, None, "é"], "b": 2}
    assert [trial.state for trial in trials] == ["withdrawn", "failed", "measured"]
    assert trials[1].x == (0.2, -1e-300)
    assert (trials[1].policy, trials[1].cost, trials[1].reason) == ("retry", 2.5, "no signal ✗")
    assert trials[2].x == (0.5,) * 2048
    assert str(trials[2].measurement) == ">10.0"
    assert trials[2].measurement.noise_std == 0.5
    again = open_storage(place)
    assert again.snapshot() == snapshot
    assert [event.what for event in again.events(1)] == ["asked", "told", "amended", "withdrawn"]
    assert again.events(1)[2].data == {"values": {"value": [7.0]}}
    assert [trial.batch for trial in store.append(ASKED)] == [2, 2]


def test_changes_are_stored_together_or_not_at_all(store):
    store.append(ASKED)
    before, events = store.snapshot(), store.events()
    for bad in (told(99, 1.0), told(1, 2.0), Draft("failed", 1, {"policy": "excluded"})):
        with pytest.raises(InputError, match=r"no trial 99|already measured"):
            store.append([told(1, 1.0), *ASKED, bad])
    assert (store.snapshot(), store.events()) == (before, events)


def test_what_is_said_twice_is_written_once(store):
    store.append(ASKED)
    store.append([told(1, 1.0), Draft("failed", 2, {"policy": "excluded"}, "broken")])
    last = store.snapshot().last
    store.append([told(1, 1.0), Draft("failed", 2, {"policy": "excluded"}, "broken")])
    assert store.snapshot().last == last


def test_a_change_decided_on_an_older_state_is_refused(store, place):
    last = store.snapshot().last
    open_storage(place).append(ASKED)
    with pytest.raises(Moved):
        store.append(ASKED, after=last)
    assert len(store.snapshot().trials) == 2
    store.append(ASKED, after=store.snapshot().last)
    assert len(store.snapshot().trials) == 4
    with pytest.raises(Moved):
        open_storage(place).create(META)


def test_a_journal_is_taken_over_whole_once_and_only_where_it_fits(store, tmp_path):
    store.append(ASKED)
    other = SQLiteStorage(tmp_path / "other.db")
    assert other.restore(store.events()) == 3
    store.append([told(1, 1.0)])
    assert other.restore(store.events()) == 1
    assert other.restore(store.events()) == 0
    assert (other.snapshot(), other.events(), other.meta()) == (
        store.snapshot(),
        store.events(),
        store.meta(),
    )
    other.append([told(2, 5.0)])
    assert store.restore(other.events()) == 1
    other.append([told(2, 6.0, "amended", "here")])
    store.append([told(2, 7.0, "amended", "there")])
    with pytest.raises(InputError, match="went apart"):
        store.restore(other.events())
    changed = [*other.events()]
    changed[3] = type(changed[3])(**{**vars(changed[3]), "data": {"values": {"value": [9.0]}}})
    with pytest.raises(DataFileError, match="event 4"):
        SQLiteStorage(tmp_path / "third.db").restore(changed)
    assert not SQLiteStorage(tmp_path / "third.db").exists


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE trials SET value = 2.0, outcomes = '{\"value\": [2.0]}' WHERE id = 1",
        "DELETE FROM trials WHERE id = 2",
        "UPDATE journal SET reason = 'other' WHERE number = 2",
        "DELETE FROM journal WHERE number = 2",
        "UPDATE meta SET value = 'false' WHERE name = 'maximize'",
    ],
)
def test_tables_that_another_program_changed_are_refused(store, place, damage):
    store.append([*ASKED, told(1, 1.0)])
    with store._changing() as db:
        db.run(damage)
    with pytest.raises(DataFileError, match=r"damaged, or was changed"):
        open_storage(place).snapshot()
    with pytest.raises(DataFileError, match=r"damaged, or was changed"):
        open_storage(place).append(ASKED)


def test_a_storage_can_be_sent_to_another_process(store):
    store.append(ASKED)
    assert pickle.loads(pickle.dumps(store)).snapshot() == store.snapshot()


def test_a_trigger_in_a_database_is_refused_by_name(place):
    if not str(place).startswith("postgresql"):
        pytest.skip("for PostgreSQL; files have tests of their own")
    store = open_storage(place)
    store.create(META)
    with store._changing() as db:
        db.run(
            "CREATE FUNCTION eat() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN DELETE FROM trials; RETURN NEW; END'"
        )
        db.run("CREATE TRIGGER mouse AFTER INSERT ON trials EXECUTE FUNCTION eat()")
    for attempt in (open_storage(place).snapshot, lambda: store.append(ASKED)):
        with pytest.raises(DataFileError, match="trigger mouse"):
            attempt()


def test_what_is_no_storage_is_refused():
    for bad in (None, 3, b"c.db", SQLiteStorage):
        with pytest.raises(DtypeError, match="storage must be"):
            open_storage(bad)


@pytest.mark.parametrize("url", ["nonsense://a:secret@b/c", "mssql+nonsense://a", "postgresql+nonsense://a"])
def test_a_url_of_no_known_database_is_refused(url):
    with pytest.raises((InputError, MissingExtra), match=r"database|sggp\[sql\]"):
        open_storage(url)


def test_urls_without_sqlalchemy_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(MissingExtra, match=r"sggp\[sql\]"):
        open_storage("postgresql+psycopg://a/b")


def test_a_server_that_is_not_there_is_named_without_the_password():
    pytest.importorskip("sqlalchemy")
    pytest.importorskip("psycopg")
    store = open_storage("postgresql+psycopg://me:secret@127.0.0.1:9/none")
    with pytest.raises(DataFileError, match="cannot use postgresql") as caught:
        _ = store.exists
    assert "secret" not in str(caught.value)
