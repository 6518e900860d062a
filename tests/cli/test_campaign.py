"""`sggp campaign` from start to report, and every way to correct what was told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sggp.bayesopt import Campaign
from sggp.cli import main
from sggp.errors import InputError
from tests.cli.commands import ALCOHOLS, LIBRARY, check_alone, read, refused, write


def run(*argv: object) -> int:
    return main([str(part) for part in argv])


def as_json(capsys: pytest.CaptureFixture[str], *argv: object) -> object:
    capsys.readouterr()
    assert run(*argv, "--json") == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def box(tmp_path: Path) -> Path:
    store = tmp_path / "c.db"
    bounds = ["--bound", "time=0:10", "--bound", "heat=20:80"]
    assert run("campaign", "init", store, *bounds, "--minimize", "--seed", 2) == 0
    return store


@pytest.fixture
def molecules(files: dict[str, Path], tmp_path: Path) -> Path:
    pytest.importorskip("rdkit", reason="the extra molecules is not installed")
    store = tmp_path / "m.db"
    start = ["--library", files["l"], "--id-column", "code", "--measured", files["m"], "--seed", 1]
    start += ["--maximize", "--name", "activity"]
    assert run("campaign", "init", store, *start) == 0
    return store


def test_a_box_campaign_from_start_to_report(box, tmp_path, capsys):
    batch = tmp_path / "b.csv"
    assert run("campaign", "ask", box, "-q", 3, "--out", batch) == 0
    rows = read(batch)
    assert list(rows[0]) == ["trial", "time", "heat", "expected", "std", "why", "value", "reason"]
    assert all(0 <= float(r["time"]) <= 10 and 20 <= float(r["heat"]) <= 80 for r in rows)
    rows[0]["value"] = "1.25"
    told = write(tmp_path / "told.csv", list(rows[0]), [list(row.values()) for row in rows])
    assert run("campaign", "tell", box, "--from", told) == 0
    assert "2 rows without a value yet" in capsys.readouterr().err
    assert run("campaign", "tell", box, 2, -0.5) == 0  # a negative number is no option
    assert run("campaign", "fail", box, 3, "--reason", "spilled") == 0
    whole, place = "-7.342341234123412", "time=0,heat=20.123456789"
    assert run("campaign", "attach", box, place, whole) == 0  # a program computed it
    for command in ("status", "results", "history"):
        capsys.readouterr()
        assert run("campaign", command, box) == 0
        said = capsys.readouterr().out
        assert "-0.5" in said
        assert "-7.34234" in said
        assert whole not in said
        assert command != "status" or "3 measured, 0 pending, 1 failed" in said
    assert whole in str(as_json(capsys, "campaign", "results", box))
    assert run("campaign", "export", box, "--out", tmp_path / "r.csv") == 0
    assert whole in (tmp_path / "r.csv").read_text()
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    assert run("campaign", "report", box, "--out", tmp_path / "r.html") == 0
    check_alone(page := (tmp_path / "r.html").read_text())
    assert "The best so far is -7.34234: trial 4, time 0, heat 20.12." in page
    assert whole not in page


def test_a_library_campaign_starts_from_measurements(molecules, files, tmp_path, capsys):
    assert len(as_json(capsys, "campaign", "results", molecules)) == 11
    outside = write(tmp_path / "outside.csv", ["smiles", "value"], [["C1=CC=CN1", 9.0], ["CCO", 1.0]])
    more = ["campaign", "init", tmp_path / "d.db", "--library", files["l"], "--measured", outside]
    assert run(*more, "--maximize") == 0
    assert run("campaign", "status", tmp_path / "d.db") == 0
    assert "C1=CC=CN1" in capsys.readouterr().out  # a molecule that the library does not hold
    assert run("campaign", "ask", molecules, "-q", 4, "--out", tmp_path / "b.csv") == 0
    rows = read(tmp_path / "b.csv")
    asked = [row["smiles"] for row in rows]
    assert len(set(asked)) == 4
    assert not set(asked) & set(ALCOHOLS)
    ids = {smiles: f"L{i}" for i, smiles in enumerate(LIBRARY)}
    assert [row["id"] for row in rows] == [ids[smiles] for smiles in asked]
    assert all(row["why"] and float(row["std"]) > 0 for row in rows)


def test_a_start_that_breaks_off_leaves_nothing(files, tmp_path, monkeypatch, capsys):
    pytest.importorskip("rdkit", reason="the extra molecules is not installed")

    def broken(*_: object) -> None:
        raise InputError("the power is gone.")

    store = tmp_path / "m.db"
    start = ["campaign", "init", store, "--library", files["l"], "--measured", files["m"], "--maximize"]
    with monkeypatch.context() as patched:
        patched.setattr(Campaign, "attach_many", broken)
        assert "the power is gone" in refused(capsys, *start)
    assert not list(tmp_path.glob("*.db*"))
    assert not list(tmp_path.glob(".*"))
    assert run(*start) == 0
    assert len(as_json(capsys, "campaign", "results", store)) == 11


def test_good_rows_of_a_file_are_stored_and_the_others_listed(molecules, tmp_path, capsys):
    batch = tmp_path / "b.csv"
    assert run("campaign", "ask", molecules, "-q", 5, "--out", batch) == 0
    rows = read(batch)
    first = int(rows[0]["trial"])
    rows[0]["activity"] = "2.5"
    rows[1]["activity"] = ">10"
    rows[2]["activity"] = "wet"
    rows[3]["reason"] = "insoluble"
    rows[4]["activity"], rows[4]["smiles"] = "1.0", rows[0]["smiles"]  # the value of another molecule
    told = write(tmp_path / "told.csv", list(rows[0]), [list(row.values()) for row in rows])
    capsys.readouterr()
    assert run("campaign", "tell", molecules, "--from", told) == 1
    said = capsys.readouterr()
    assert "3 results stored" in said.out
    assert "line 4: activity: not a number: 'wet'" in said.err
    assert f"line 6: the row is of {rows[0]['smiles']}, but trial {first + 4} is" in said.err
    assert [row["line"] for row in read(tmp_path / "told.rejected.csv")] == ["4", "6"]
    trials = {t["trial"]: t for t in as_json(capsys, "campaign", "results", molecules)}
    assert trials[first]["values"] == {"activity": {"value": 2.5, "noise_std": None, "censored": None}}
    assert trials[first + 1]["values"]["activity"]["censored"] == "above"
    assert [trials[first + i]["state"] for i in range(5)] == [
        "measured",
        "measured",
        "pending",
        "failed",
        "pending",
    ]
    assert trials[first + 3]["reason"] == "insoluble"
    assert run("campaign", "tell", molecules, "--from", told) == 1  # once more: the same, nothing twice
    again = as_json(capsys, "campaign", "results", molecules)
    assert {t["trial"]: t for t in again} == trials


def test_a_value_is_corrected_and_taken_back_with_its_history(box, capsys):
    assert run("campaign", "ask", box, "-q", 2) == 0
    assert run("campaign", "tell", box, 1, "-8.8") == 0
    assert run("campaign", "amend", box, 1, "8.8", "--reason", "sign forgotten") == 0
    assert run("campaign", "withdraw", box, 2, "--reason", "wrong vial") == 0
    assert run("campaign", "attach", box, "time=1,heat=30", "-2±0.5", "--cost", 3) == 0
    trials = as_json(capsys, "campaign", "results", box)
    assert [t["state"] for t in trials] == ["measured", "withdrawn", "measured"]
    assert trials[0]["values"]["value"]["value"] == 8.8
    assert trials[2]["values"]["value"] == {"value": -2.0, "noise_std": 0.5, "censored": None}
    assert trials[2]["place"] == {"time": 1.0, "heat": 30.0}
    assert trials[2]["cost"] == 3.0
    events = as_json(capsys, "campaign", "history", box, 1)
    assert [event["what"] for event in events] == ["asked", "told", "amended"]
    assert events[2]["reason"] == "sign forgotten"
    assert run("campaign", "history", box) == 0
    said = capsys.readouterr().out
    assert "value -8.8" in said
    assert "wrong vial" in said
    assert "--reason" in refused(capsys, "campaign", "amend", box, 1, 9)


def test_a_library_that_moved_and_grew_goes_on(molecules, files, tmp_path, capsys):
    assert run("campaign", "ask", molecules, "-q", 2) == 0
    rows = read(files["l"])
    moved = tmp_path / "elsewhere" / "library.csv"
    moved.parent.mkdir()
    grown = [["X1", "CCCCCCCCCO"], *([row["code"], row["smiles"]] for row in reversed(rows))]
    write(moved, ["code", "smiles"], grown)
    files["l"].unlink()
    assert "--library FILE" in refused(capsys, "campaign", "ask", molecules)
    assert run("campaign", "status", molecules) == 0  # without the library
    assert run("campaign", "tell", molecules, 12, 3.5) == 0
    before = {t["key"] for t in as_json(capsys, "campaign", "results", molecules)}
    new = as_json(capsys, "campaign", "ask", molecules, "-q", 3, "--library", moved)
    assert not {t["key"] for t in new} & before
    assert run("campaign", "ask", molecules) == 0  # it is remembered
    assert str(moved.resolve()) in json.dumps(as_json(capsys, "campaign", "history", molecules))


def test_several_objectives_and_a_constraint(tmp_path, capsys):
    store = tmp_path / "two.db"
    wanted = ["--objective", "yield:max:%", "--objective", "cost:min", "--constraint", "purity>=90"]
    settings = [
        "--bound",
        "time=1:100:log",
        "--integer",
        "steps=1:3",
        "--levels",
        "size=1,2,5",
        "--choice",
        "base=A,B",
    ]
    assert run("campaign", "init", store, *wanted, *settings, "--seed", 3) == 0
    asked = as_json(capsys, "campaign", "ask", store, "-q", 3)
    assert set(asked[0]["place"]) == {"time", "steps", "size", "base"}
    assert asked[0]["place"]["base"] in ("A", "B")
    assert run("campaign", "tell", store, 1, "yield=50", "cost=2", "purity=95") == 0
    assert run("campaign", "tell", store, 2, "yield=60", "cost=3", "purity=99") == 0
    table = write(tmp_path / "t.csv", ["trial", "yield", "cost", "purity"], [[3, 40, 3, 98]])
    assert run("campaign", "tell", store, "--from", table) == 0
    summary = as_json(capsys, "campaign", "status", store)
    assert summary["front"] == [2, 1]
    assert "give one value, or NAME=VALUE" in refused(capsys, "campaign", "tell", store, 1, 5, 6)
    assert "yield" in refused(capsys, "campaign", "tell", store, 1, 5)
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    assert run("campaign", "report", store, "--out", tmp_path / "r.html") == 0
    text = (tmp_path / "r.html").read_text()
    check_alone(text)
    assert "Trade-off" in text
    assert "purity at least 90" in text


def test_export_and_import(molecules, tmp_path, capsys):
    assert run("campaign", "export", molecules, "--out", tmp_path / "c.jsonl") == 0
    assert run("campaign", "import", tmp_path / "c.jsonl", tmp_path / "copy.db") == 0
    assert run("campaign", "import", tmp_path / "c.jsonl", tmp_path / "copy.db") == 0
    one, two = (as_json(capsys, "campaign", "results", s) for s in (molecules, tmp_path / "copy.db"))
    assert one == two
    assert run("campaign", "export", molecules, "--out", tmp_path / "c.csv") == 0
    assert len(read(tmp_path / "c.csv")) == len(one)
    assert "read as an input" in refused(capsys, "campaign", "export", molecules, "--out", molecules)


def test_pending_trials_can_be_written_again(box, tmp_path, capsys):
    assert run("campaign", "ask", box, "-q", 2) == 0
    assert run("campaign", "tell", box, 1, 3) == 0
    assert run("campaign", "pending", box, "--out", tmp_path / "p.csv") == 0
    assert [row["trial"] for row in read(tmp_path / "p.csv")] == ["2"]


def test_bad_requests_are_refused(box, tmp_path, capsys):
    store = tmp_path / "new.db"
    init = ["campaign", "init", store]
    assert "exactly one of" in refused(capsys, *init, "--bound", "x=0:1")
    assert "one of --library FILE, --reaction FILE, or" in refused(capsys, *init, "--maximize")
    for bad in ("x", "x=1", "x=a:b", "=0:1", "x=0:1:cube"):
        assert "NAME=LOW:HIGH" in refused(capsys, *init, "--maximize", "--bound", bad)
    assert "x=1:0: the lower bound must be below" in refused(capsys, *init, "--maximize", "--bound", "x=1:0")
    assert "whole numbers" in refused(capsys, *init, "--maximize", "--integer", "x=0.5:3")
    assert "NAME=A,B" in refused(capsys, *init, "--maximize", "--levels", "x=1,two")
    assert "twice" in refused(capsys, *init, "--maximize", "--bound", "x=0:1", "--integer", "x=0:1")
    assert "NAME:max" in refused(capsys, *init, "--objective", "y", "--bound", "x=0:1")
    for limit in ("y", "y:>=1"):
        assert "NAME>=NUMBER" in refused(
            capsys, *init, "--maximize", "--constraint", limit, "--bound", "x=0:1"
        )
    assert "no such campaign" in refused(capsys, "campaign", "ask", store)
    assert not store.exists()
    assert "never overwritten" in refused(capsys, "campaign", "init", box, "--maximize", "--bound", "x=0:1")
    assert run("campaign", "ask", box, "-q", 2) == 0
    assert "no trial 9" in refused(capsys, "campaign", "tell", box, 9, 1.0)
    assert "no measurement" in refused(capsys, "campaign", "tell", box, 1, "nan")
    assert "no measurement" in refused(capsys, "campaign", "tell", box, 1, "1,5")
    assert "--from FILE" in refused(capsys, "campaign", "tell", box, 1)
    wrong = write(tmp_path / "w.csv", ["trial", "value"], [[7, 2.0], [2, "wet"]])
    assert run("campaign", "tell", box, "--from", wrong) == 2
    assert "no trial 7" in capsys.readouterr().err
    strange = write(tmp_path / "s.csv", ["sample", "value"], [["a", 2.0]])
    assert "no column 'trial'" in refused(capsys, "campaign", "tell", box, "--from", strange)
    assert [t["state"] for t in as_json(capsys, "campaign", "results", box)] == ["pending", "pending"]


def test_forms_of_a_molecule_are_one_where_that_is_asked_for(tmp_path, capsys):
    pytest.importorskip("rdkit", reason="the extra molecules is not installed")
    library = write(tmp_path / "l.csv", ["smiles"], [["CCCN"], ["CCCN.Cl"], ["CCCO"], ["OC(=O)CC"]])
    measured = write(tmp_path / "m.csv", ["smiles", "value"], [["[O-]C(=O)CC.[Na+]", 1.5]])
    store = tmp_path / "f.db"
    start = ["campaign", "init", store, "--library", library, "--maximize", "--seed", 1]
    assert run(*start, "--measured", measured, "--standardise", "parent") == 0
    said = capsys.readouterr().err
    assert "rows of the library that are the same molecule as an earlier one: 1" in said
    assert "trial 1, [O-]C(=O)CC.[Na+] (with sodium, charged) is the same molecule as OC(=O)CC" in said
    assert run("campaign", "ask", store, "-q", 2) == 0  # the acid is known, and the amine is there once
    assert "only 0 rows" in refused(capsys, "campaign", "ask", store, "-q", 1)
    told = write(tmp_path / "t.csv", ["trial", "smiles", "value"], [[2, "CCCN.Cl", 2.0], [3, "CCCN.Cl", 2.5]])
    assert run("campaign", "tell", store, "--from", told) == 1  # one of them is the alcohol
    capsys.readouterr()
    assert run("campaign", "status", store) == 0
    said = capsys.readouterr().out
    assert "2 measured, 1 pending" in said
    assert "the same by parent" in said
    status = as_json(capsys, "campaign", "status", store)
    assert status["standardise"] == "parent"
    assert len(status["same_molecules"]) == 2
    box = ["campaign", "init", tmp_path / "b.db", "--bound", "x=0:1", "--maximize", "--standardise", "flat"]
    assert "a box has none" in refused(capsys, *box)
