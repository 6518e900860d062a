"""Results come to the trial that they are of, with their sign and unit, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("rdkit", reason="the extra molecules is not installed")

from sggp.bayesopt import Campaign, Trial
from sggp.cli import main
from tests.cli.commands import LIBRARY, read, refused, write


def run(*argv: object) -> int:
    return main([str(part) for part in argv])


def trials(store: Path) -> dict[int, Trial]:
    return {trial.id: trial for trial in Campaign.open(store).results()}


def values(store: Path) -> dict[str, str]:
    """What is measured, by SMILES."""
    return {str(t.label): str(t.measurement) for t in trials(store).values() if t.values}


def begin(tmp_path: Path, ids: list[object], *more: object) -> Path:
    library = write(
        tmp_path / "l.csv", ["id", "smiles"], [list(row) for row in zip(ids, LIBRARY, strict=False)]
    )
    start = ["--library", library, "--maximize", "--name", "y", "--seed", 1, *more]
    store = tmp_path / "c.db"
    assert run("campaign", "init", store, *start) == 0
    return store


class TestIds:
    """An id of the library is no number of a trial, even where both are numbers."""

    @pytest.mark.parametrize(
        "ids", [list(range(1, 19)), [f"L{i}" for i in range(18)], [f"{i:03}" for i in range(18)]]
    )
    def test_a_file_that_names_ids_of_the_library(self, tmp_path, capsys, ids):
        store, batch = begin(tmp_path, ids), tmp_path / "b.csv"
        assert run("campaign", "ask", store, "-q", 5, "--out", batch) == 0
        asked = read(batch)
        lab = write(tmp_path / "lab.csv", ["id", "y"], [[row["id"], float(row["trial"])] for row in asked])
        assert run("campaign", "tell", store, "--from", lab) == 0
        assert values(store) == {row["smiles"]: f"{row['trial']}.0" for row in asked}

    def test_without_the_library_nothing_is_guessed(self, tmp_path, capsys):
        store = begin(tmp_path, list(range(1, 19)))
        assert run("campaign", "ask", store, "-q", 3) == 0
        (tmp_path / "l.csv").unlink()
        lab = write(tmp_path / "lab.csv", ["id", "y"], [[1, 5.0], [2, 6.0]])
        assert "no longer at" in refused(capsys, "campaign", "tell", store, "--from", lab)
        assert values(store) == {}

    def test_ids_of_no_trial_and_of_several_molecules_are_listed(self, tmp_path, capsys):
        store = begin(tmp_path, ["A", "A", "007", *(f"L{i}" for i in range(15))])
        assert run("campaign", "ask", store, "-q", 18) == 0
        lab = write(tmp_path / "lab.csv", ["id", "y"], [["A", 1.0], ["7", 2.0], ["L3", 3.0], ["Z", 4.0]])
        capsys.readouterr()
        assert run("campaign", "tell", store, "--from", lab) == 1
        said = capsys.readouterr().err
        assert "line 2: id: 2 molecules of the library have the id 'A'" in said
        assert "line 3: id: no molecule of the library has the id '7'; did you mean '007'?" in said
        assert "line 5: id: no molecule of the library has the id 'Z'" in said
        assert values(store) == {LIBRARY[6]: "3.0"}

    def test_no_id_names_no_molecule(self, tmp_path, capsys):
        store = begin(tmp_path, ["", *(f"L{i}" for i in range(17))])
        assert run("campaign", "ask", store, "-q", 18) == 0
        lab = write(tmp_path / "lab.csv", ["id", "y"], [["", 1.0], ["L0", 2.0]])
        assert run("campaign", "tell", store, "--from", lab) == 1
        assert values(store) == {LIBRARY[1]: "2.0"}

    def test_one_trial_by_the_id_of_its_molecule(self, tmp_path, capsys):
        store = begin(tmp_path, [f"L{i}" for i in range(18)])
        assert run("campaign", "ask", store, "-q", 18) == 0
        assert run("campaign", "tell", store, "L3", 5) == 0
        assert values(store) == {LIBRARY[3]: "5.0"}
        assert LIBRARY[3] in capsys.readouterr().out  # the molecule is shown, so that a slip is seen
        assert run("campaign", "fail", store, "L4", "--reason", "lost") == 0
        assert "neither the number of a trial" in refused(capsys, "campaign", "tell", store, "L99", 5)

    def test_a_box_has_no_ids(self, tmp_path, capsys):
        store = tmp_path / "b.db"
        assert run("campaign", "init", store, "--bound", "x=0:1", "--maximize", "--seed", 1) == 0
        assert run("campaign", "ask", store, "-q", 2) == 0
        lab = write(tmp_path / "lab.csv", ["id", "value"], [[1, 5.0], [2, 6.0]])
        assert "no column 'trial'" in refused(capsys, "campaign", "tell", store, "--from", lab)

    def test_other_forms_of_a_molecule(self, tmp_path):
        store = begin(tmp_path, list(range(18)), "--standardise", "parent")
        assert run("campaign", "ask", store, "-q", 18) == 0
        assert run("campaign", "tell", store, "CCCN.Cl", 5) == 0
        lab = write(tmp_path / "lab.csv", ["smiles", "y"], [["CC[NH3+].[Cl-]", 6.0]])
        assert run("campaign", "tell", store, "--from", lab) == 0
        assert values(store) == {"CCCN": "5.0", "CCN": "6.0"}


class TestSettings:
    """A value measured at other settings is not one of the trial."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Path:
        store = tmp_path / "b.db"
        settings = [
            "--bound",
            "T=20:120",
            "--bound",
            "c=0.001:1:log",
            "--integer",
            "eq=1:5",
            "--choice",
            "s=THF,DMF",
        ]
        start = ["campaign", "init", store, *settings, "--levels", "v=0.1,0.5", "--maximize", "--name", "y"]
        assert run(*start, "--seed", 1) == 0
        assert run("campaign", "ask", store, "-q", 4, "--out", tmp_path / "b.csv") == 0
        return store

    @pytest.mark.parametrize(
        ("name", "other"),
        [("T", "70"), ("T", "hot"), ("c", "0.9"), ("eq", "7"), ("s", "water"), ("v", "0.2")],
    )
    def test_another_setting_is_listed(self, store, tmp_path, capsys, name, other):
        rows = read(tmp_path / "b.csv")
        for row in rows:
            row["y"] = "1.5"
        assert abs(float(rows[0]["T"]) - 70) > 1
        rows[0][name] = other
        told = write(tmp_path / "t.csv", list(rows[0]), [list(row.values()) for row in rows])
        capsys.readouterr()
        assert run("campaign", "tell", store, "--from", told) == 1
        said = capsys.readouterr().err
        assert f"line 2: the row has {name} = {other}, but trial 1 is at {name} = " in said
        assert [t.state for t in trials(store).values()] == ["pending", "measured", "measured", "measured"]

    def test_what_a_spreadsheet_rounds_is_the_same(self, store, tmp_path):
        rows = read(tmp_path / "b.csv")
        for row in rows:
            row.update(
                y="1,5",
                T=f"{float(row['T']):.1f}".replace(".", ","),
                c=f"{float(row['c']):.3g}".replace(".", ","),
            )
            row.update(v=row["v"].replace(".", ","), eq=f"{row['eq']},0")
        rows[3]["T"] = ""
        told = write(tmp_path / "t.csv", list(rows[0]), [list(row.values()) for row in rows])
        assert run("campaign", "tell", store, "--from", told) == 0

    def test_settings_with_decimal_commas_are_attached(self, store, tmp_path):
        table = tmp_path / "a.csv"
        table.write_text("T;c;eq;s;v;y\n50,5;0,5;2;THF;0,1;10,5\n60;0,01;3;DMF;0,5;>95\n")
        assert run("campaign", "attach", store, "--from", table) == 0
        assert [t.x for t in trials(store).values()][4:] == [
            (50.5, 0.5, 2, 0.1, "THF"),
            (60.0, 0.01, 3, 0.5, "DMF"),
        ]

    def test_a_setting_or_an_outcome_twice_is_refused(self, store, capsys):
        point = "T=50,T=60,c=0.5,eq=2,s=THF,v=0.1"
        assert "'T' twice" in refused(capsys, "campaign", "attach", store, point, 5)
        assert "'y' twice" in refused(capsys, "campaign", "tell", store, 1, "y=1", "y=2")


class TestSpreadsheets:
    """A batch comes back from a spreadsheet of another country."""

    def test_the_points_that_ask_wrote_do_not_make_thousands_of_a_users_commas(self, tmp_path, capsys):
        store, batch = begin(tmp_path, list(range(18))), tmp_path / "b.csv"
        for i, smiles in enumerate(LIBRARY[:10]):
            assert run("campaign", "attach", store, smiles, i) == 0
        assert run("campaign", "ask", store, "-q", 2, "--out", batch) == 0
        rows = read(batch)
        for row in rows:
            assert "." in row["expected"]
            row["y"] = "1,234"
        told = write(tmp_path / "t.csv", list(rows[0]), [list(row.values()) for row in rows])
        assert "Say which sign is the decimal" in refused(capsys, "campaign", "tell", store, "--from", told)
        assert run("campaign", "tell", store, "--from", told, "--decimal", ",") == 0
        assert [trial.value for trial in trials(store).values()][10:] == [1.234, 1.234]

    def test_nor_do_those_of_settings(self, tmp_path, capsys):
        store, batch = tmp_path / "b.db", tmp_path / "b.csv"
        assert (
            run("campaign", "init", store, "--bound", "x=0:1", "--maximize", "--name", "y", "--seed", 1) == 0
        )
        assert run("campaign", "ask", store, "-q", 2, "--out", batch) == 0
        rows = [[row["trial"], row["x"], "1,234"] for row in read(batch)]
        told = write(tmp_path / "t.csv", ["trial", "x", "y"], rows)
        assert "Say which sign is the decimal" in refused(capsys, "campaign", "tell", store, "--from", told)

    def test_capitals_in_names_of_columns(self, tmp_path):
        store = begin(tmp_path, list(range(18)))
        assert run("campaign", "ask", store, "-q", 2) == 0
        told = write(
            tmp_path / "t.csv", ["Trial", " Y", "Reason", "COST"], [[1, 5, "", 3], [2, "", "lost", 1]]
        )
        assert run("campaign", "tell", store, "--from", told) == 0
        one, two = trials(store).values()
        assert (one.value, one.cost, two.state, two.reason, two.cost) == (5.0, 3.0, "failed", "lost", 1.0)


def test_reagents_beside_the_number_of_a_trial(tmp_path, capsys):
    (tmp_path / "a.smi").write_text("OC(=O)C A1\nOC(=O)CC A2\n")
    (tmp_path / "b.smi").write_text("NC B1\nNCC B2\n")
    entry = {
        "smarts": "[C:1](=[O:2])[OH].[NH2:3][C:4]>>[C:1](=[O:2])[N:3][C:4]",
        "reagents": ["a.smi", "b.smi"],
    }
    (tmp_path / "r.json").write_text(json.dumps(entry))
    store, batch = tmp_path / "r.db", tmp_path / "b.csv"
    start = ["campaign", "init", store, "--reaction", tmp_path / "r.json", "--maximize", "--name", "y"]
    assert run(*start, "--seed", 1) == 0
    assert run("campaign", "ask", store, "-q", 4, "--out", batch) == 0
    rows = [[row["trial"], row["reagent_1"], row["reagent_2"], 5] for row in read(batch)]
    rows[0][1:3] = rows[1][1:3]
    told = write(tmp_path / "t.csv", ["trial", "reagent_1", "reagent_2", "y"], rows)
    capsys.readouterr()
    assert run("campaign", "tell", store, "--from", told) == 1
    said = capsys.readouterr().err
    assert f"line 2: the row is of {' + '.join(rows[1][1:3])}, but trial 1 is of" in said
    assert [t.state for t in trials(store).values()] == ["pending", "measured", "measured", "measured"]


class TestBounds:
    """A column of relations says which values are bounds, to every command that reads results."""

    ROWS = (["CCO", "=", 5], ["CCCO", ">", 10], ["CCN", "<=", 0.1], ["CCCN", "~", 6], ["CCCCN", "", 7])

    @pytest.mark.parametrize("how", ["init", "attach", "tell"])
    def test_a_column_of_relations(self, tmp_path, capsys, how):
        table = write(
            tmp_path / "m.csv", ["smiles", "standard_relation", "y"], [list(row) for row in self.ROWS]
        )
        store = begin(tmp_path, list(range(18)), *(["--measured", table] if how == "init" else []))
        if how == "tell":
            assert run("campaign", "ask", store, "-q", 18) == 0
        capsys.readouterr()
        if how != "init":
            assert run("campaign", how, store, "--from", table) == 1
        found = values(store)
        assert found == {"CCO": "5.0", "CCCO": ">10.0", "CCN": "<0.1", "CCCCN": "7.0"}
        listed = read(tmp_path / ("c.rejected.csv" if how == "init" else "m.rejected.csv"))
        assert "relation '~' is neither" in listed[0]["reason"]


def test_a_file_is_stored_whole_or_its_rows_are_listed(tmp_path, capsys):
    store = begin(tmp_path, list(range(18)))
    assert run("campaign", "ask", store, "-q", 3) == 0
    told = write(tmp_path / "t.csv", ["trial", "y", "cost"], [[1, 3, 4], [2, 3, -5], [3, 2, 1]])
    capsys.readouterr()
    assert run("campaign", "tell", store, "--from", told) == 1
    assert "line 3: cost must be at least 0" in capsys.readouterr().err
    assert [t.state for t in trials(store).values()] == ["measured", "pending", "measured"]
    assert trials(store)[1].cost == 4.0
    last = Campaign.open(store).history()[-2:]
    assert last[0].at == last[1].at  # one change of the file


def test_a_row_that_cannot_be_stored_keeps_no_other_from_it(tmp_path, capsys):
    store = begin(tmp_path, list(range(18)))
    assert run("campaign", "ask", store, "-q", 5) == 0
    assert run("campaign", "withdraw", store, 1, "--reason", "impure") == 0
    assert run("campaign", "withdraw", store, 2, "--reason", "impure") == 0
    assert run("campaign", "tell", store, 3, 5, "--cost", 2) == 0
    rows = [[1, 3, "", ""], [2, "", "", "lost"], [3, 5, 3, ""], [4, 6, 1, ""], [5, "", 1, "lost"]]
    told = write(tmp_path / "t.csv", ["trial", "y", "cost", "reason"], rows)
    capsys.readouterr()
    assert run("campaign", "tell", store, "--from", told) == 1
    said = capsys.readouterr().err
    assert "line 2: trial 1 was withdrawn (impure)" in said
    assert "line 3: trial 2 was withdrawn (impure)" in said
    assert "line 4: trial 3 has the cost 2" in said
    assert [t.state for t in trials(store).values()] == [
        "withdrawn",
        "withdrawn",
        "measured",
        "measured",
        "failed",
    ]


@pytest.mark.parametrize("box", [False, True])
def test_a_file_that_is_attached_twice(tmp_path, capsys, box):
    if box:
        store, rows = tmp_path / "b.db", [[0.5, 5], [0.25, 6]]
        start = ["--bound", "smiles=0:1", "--maximize", "--name", "y", "--seed", 1]
        assert run("campaign", "init", store, *start) == 0
    else:
        store, rows = begin(tmp_path, list(range(18))), [["CCO", 5], ["CCCO", 6]]
    table = write(tmp_path / "a.csv", ["smiles", "y"], rows)
    assert run("campaign", "attach", store, "--from", table) == 0
    assert "all 2 measurements are in" in refused(capsys, "campaign", "attach", store, "--from", table)
    assert len(trials(store)) == 2
    rows[1][1] = 6.5  # measured once more
    write(table, ["smiles", "y"], rows)
    capsys.readouterr()
    assert run("campaign", "attach", store, "--from", table) == 0
    assert (
        "1 of the 2 measurements were there already, and count twice now: the first is trial 1"
        in capsys.readouterr().err
    )
    assert len(trials(store)) == 4


def test_costs_of_attached_measurements_are_kept(tmp_path, capsys):
    store = begin(tmp_path, list(range(18)))
    table = write(
        tmp_path / "a.csv", ["smiles", "y", "cost"], [["CCO", 5, 2], ["CCCO", 6, ""], ["CCN", 6, -1]]
    )
    capsys.readouterr()
    assert run("campaign", "attach", store, "--from", table) == 1
    assert "line 4: cost must be at least 0" in capsys.readouterr().err
    assert [(t.value, t.cost) for t in trials(store).values()] == [(5.0, 2.0), (6.0, None)]


def test_ids_that_several_molecules_share_are_said(tmp_path, capsys):
    begin(tmp_path, ["A", "A", "", "", *(f"L{i}" for i in range(14))])
    said = capsys.readouterr().err
    assert "1 ids are of several molecules, which cannot be told by them; the first is 'A'" in " ".join(
        said.split()
    )


class TestNames:
    @pytest.mark.parametrize("name", ["expected", "std", "why", "reason", "trial", "smiles", "id"])
    def test_an_outcome_is_not_called_as_another_column_of_a_batch(self, tmp_path, capsys, name):
        library = write(tmp_path / "l.csv", ["id", "smiles"], [[1, "CCO"], [2, "CCN"]])
        start = ["campaign", "init", tmp_path / "n.db", "--library", library]
        assert "cannot be called" in refused(capsys, *start, "--maximize", "--name", name)
        assert "cannot be called" in refused(capsys, *start, "--objective", f"{name}:max")
        assert not (tmp_path / "n.db").exists()

    @pytest.mark.parametrize("name", ["-log K", "=x", "+ΔG", "@a", "[b]", "a,b", "\x1b[31mx"])
    def test_any_other_name_goes_through_a_batch(self, tmp_path, name):
        library = write(tmp_path / "l.csv", ["id", "smiles"], [[1, "CCO"], [2, "CCN"]])
        store, batch = tmp_path / "n.db", tmp_path / "b.csv"
        assert (
            run("campaign", "init", store, "--library", library, "--maximize", "--name", name, "--seed", 1)
            == 0
        )
        assert run("campaign", "ask", store, "-q", 1, "--out", batch) == 0
        (row,) = read(batch)
        row[list(row)[-2]] = "1.5"
        told = write(tmp_path / "t.csv", list(row), [list(row.values())])
        assert run("campaign", "tell", store, "--from", told) == 0
        assert trials(store)[1].value == 1.5

    def test_an_outcome_called_cost_is_no_cost(self, tmp_path, capsys):
        library = write(tmp_path / "l.csv", ["id", "smiles"], [[1, "CCO"], [2, "CCN"]])
        store = tmp_path / "n.db"
        wanted = ["--objective", "cost:min", "--objective", "y:max", "--constraint", "purity>=90"]
        assert run("campaign", "init", store, "--library", library, *wanted, "--seed", 1) == 0
        assert "minimise cost, maximise y, purity at least 90;" in capsys.readouterr().out
        assert run("campaign", "ask", store, "-q", 1) == 0
        told = write(tmp_path / "t.csv", ["trial", "y", "cost"], [[1, 3, 4000]])
        assert run("campaign", "tell", store, "--from", told) == 0
        capsys.readouterr()
        assert run("campaign", "results", store, "--json") == 0
        (trial,) = json.loads(capsys.readouterr().out)
        assert (trial["cost"], trial["values"]["cost"]["value"]) == (None, 4000.0)


@pytest.mark.parametrize("how", ["init", "tell"])
def test_a_file_may_tell_standard_errors(tmp_path, how):
    table = write(
        tmp_path / "m.csv", ["smiles", "y"], [["CCO", "5±0.2"], ["CCCO", ">10 +/- 1"], ["CCN", "4"]]
    )
    store = begin(tmp_path, list(range(18)), *(["--measured", table] if how == "init" else []))
    if how == "tell":
        assert run("campaign", "ask", store, "-q", 18) == 0
        assert run("campaign", "tell", store, "--from", table) == 0
    found = {t.label: t.measurement for t in trials(store).values() if t.state == "measured"}
    assert {name: (m.value, m.noise_std, m.censored) for name, m in found.items()} == {
        "CCO": (5.0, 0.2, None),
        "CCCO": (10.0, 1.0, "above"),
        "CCN": (4.0, None, None),
    }
