"""`sggp campaign` and `sggp suggest` over the products of reactions, and what can be wrong with these."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")
pytest.importorskip("rdkit", reason="the extra molecules is not installed")

from sggp.bayesopt import Campaign
from sggp.cli import main
from sggp.cli.molecules import products
from sggp.molecules.reactions import library
from tests.cli.commands import check_alone, read, refused, write

SMARTS = "N[c:4][c:3]C(O)=O.[#6:1][NH2].[#6:2]C(=O)[OH]>>[C:2]c1n[c:4][c:3]c(=O)n1[C:1]"
AMIDE = "[#6:1]C(=O)[OH].[#6:2][NH2]>>[#6:1]C(=O)N[#6:2]"
AMINES = ["CN", "CCN", "NC1CC1", "NCc1ccccc1"]
LISTS = {
    "a.smi": ["Nc1ccccc1C(=O)O", "Nc1cc(F)ccc1C(=O)O", "Nc1ccc(Cl)cc1C(=O)O", "Nc1c(C)cccc1C(=O)O"],
    "b.smi": AMINES,
    "c.smi": ["CC(=O)O", "CCC(=O)O", "O=C(O)c1ccccc1"],
}


def reactions(folder: Path, *entries: tuple[str, list[str]], name: str = "lib.json", **rest: object) -> Path:
    found = [
        {"name": f"r{i}", "smarts": smarts, "reagents": files} for i, (smarts, files) in enumerate(entries, 1)
    ]
    (folder / name).write_text(json.dumps({"reactions": found, **rest}), encoding="utf-8")
    return folder / name


def reagents(folder: Path, name: str, smiles: list[str]) -> None:
    letter = name[0].upper()
    text = "".join(f"{one} {letter}{number}\n" for number, one in enumerate(smiles, 1))
    (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture
def lib(tmp_path: Path) -> Path:
    folder = tmp_path / "lib"
    folder.mkdir()
    for name, smiles in LISTS.items():
        reagents(folder, name, smiles)
    return reactions(folder, (SMARTS, list(LISTS)))


def run(*argv: object) -> int:
    return main([str(part) for part in argv])


def init(store: Path, file: Path, *more: object) -> int:
    return run(
        "campaign", "init", store, "--reaction", file, "--maximize", "--name", "score", "--seed", 1, *more
    )


def value(smiles: str) -> float:
    return 0.1 * len(smiles) + smiles.count("F")


def ids_of(row: dict[str, str]) -> str:
    return " + ".join(row[f"reagent_{number}"] for number in (1, 2, 3))


def told(path: Path, rows: list[dict[str, str]], *without: str) -> Path:
    """The rows with their values, and without some columns."""
    header = [name for name in rows[0] if name not in without]
    cells = [[value(r["smiles"]) if name == "score" else r[name] for name in header] for r in rows]
    return write(path, header, cells)


class TestCampaign:
    def test_from_start_to_report(self, lib, tmp_path, capsys):
        pytest.importorskip("matplotlib", reason="the extra plot is not installed")
        store, batch = tmp_path / "week.db", tmp_path / "b.csv"
        assert init(store, lib) == 0
        assert "r1: 4 x 4 x 3 = 48 combinations" in capsys.readouterr().err
        assert run("campaign", "ask", store, "-q", 25, "--out", batch) == 0
        rows = read(batch)
        assert list(rows[0])[:5] == ["trial", "smiles", "reaction", "reagent_1", "reagent_1_smiles"]
        assert all(LISTS["b.smi"][int(r["reagent_2"][1:]) - 1] == r["reagent_2_smiles"] for r in rows)
        assert run("campaign", "tell", store, rows[0]["trial"], value(rows[0]["smiles"])) == 0
        assert run("campaign", "tell", store, rows[1]["smiles"], value(rows[1]["smiles"])) == 0
        assert run("campaign", "tell", store, ids_of(rows[2]), value(rows[2]["smiles"])) == 0
        for row in rows[3:8]:  # a fifth of what was asked for cannot be made
            assert run("campaign", "fail", store, ids_of(row), "--reason", "no reaction") == 0
        by_smiles = told(tmp_path / "s.csv", rows[8:13], "trial", "reagent_1", "reagent_2", "reagent_3")
        assert run("campaign", "tell", store, "--from", by_smiles) == 0
        assert run("campaign", "tell", store, "--from", told(tmp_path / "i.csv", rows[13:], "trial")) == 0
        capsys.readouterr()

        assert run("campaign", "ask", store, "-q", 3, "--json") == 0
        said = capsys.readouterr()
        assert "search: " in said.err
        places = [trial["place"] for trial in json.loads(said.out)]
        assert all(set(place) == {"smiles", "reaction", *_columns()} for place in places)
        assert not {place["smiles"] for place in places} & {row["smiles"] for row in rows}
        assert run("campaign", "status", store) == 0
        said = capsys.readouterr().out
        assert "20 measured, 3 pending, 5 failed" in said
        assert run("campaign", "report", store, "--out", tmp_path / "r.html") == 0
        page = (tmp_path / "r.html").read_text(encoding="utf-8")
        check_alone(page)
        assert "<figcaption>A2</figcaption>" in page
        assert "The most useful reagents" in page
        assert "of 48 combinations; nothing is said of the others" in page  # is it worth going on?
        assert page.count('class="parts"') == 12 + 3  # the best, and the batch
        assert run("campaign", "export", store, "--out", tmp_path / "all.csv") == 0
        assert len([r for r in read(tmp_path / "all.csv") if r["reagent_3"].startswith("C")]) == 28

    def test_names_that_mean_no_trial_or_several(self, lib, tmp_path, capsys):
        store = tmp_path / "c.db"
        assert init(store, lib) == 0
        assert run("campaign", "ask", store, "-q", 2, "--out", tmp_path / "b.csv") == 0
        first = read(tmp_path / "b.csv")[0]
        Campaign.open(store).attach(first["smiles"], 1.0)
        assert run("campaign", "tell", store, first["smiles"], 1.5) == 0  # the one that waits
        assert "are all of" in refused(capsys, "campaign", "tell", store, first["smiles"], 2)
        assert "has no trial of CCO" in refused(capsys, "campaign", "tell", store, "CCO", 2)
        assert "has no trial of A9 + B1" in refused(capsys, "campaign", "tell", store, "A9 + B1", 2)
        assert "neither the number of a trial" in refused(capsys, "campaign", "fail", store, "b1")
        unknown = write(tmp_path / "u.csv", ["smiles", "score"], [["CCO", 1.0]])
        assert run("campaign", "tell", store, "--from", unknown) == 2
        assert "attach takes what nobody asked for" in capsys.readouterr().err

    def test_reagents_that_moved_and_changed(self, lib, tmp_path, capsys):
        store, batch = tmp_path / "c.db", tmp_path / "b.csv"
        assert init(store, lib) == 0
        assert run("campaign", "ask", store, "-q", 4, "--out", batch) == 0
        rows = read(batch)
        assert run("campaign", "tell", store, "--from", told(tmp_path / "t.csv", rows)) == 0
        elsewhere = shutil.move(lib.parent, tmp_path / "moved")
        assert "give --library FILE.json" in refused(capsys, "campaign", "ask", store)
        reagents(Path(elsewhere), "c.smi", ["CCCC(=O)O", *LISTS["c.smi"]])
        text = (Path(elsewhere) / "c.smi").read_text().replace("C1", "new").replace("C2", "C1")
        (Path(elsewhere) / "c.smi").write_text(text.replace("C3", "C2").replace("C4", "C3"))
        assert run("campaign", "ask", store, "--library", Path(elsewhere) / "lib.json") == 0
        assert "(4 x 4 x 3, now 4 x 4 x 4); trials keep" in capsys.readouterr().err
        space = products.read_space(Path(elsewhere) / "lib.json")
        trials = Campaign(space, store).results()
        assert [trial.label for trial in trials[:4]] == [row["smiles"] for row in rows]
        assert all(trial.index < len(space) for trial in trials)  # known as combinations, where these are now
        assert run("campaign", "ask", store) == 0  # where it was found is kept

    def test_measured_before_and_elsewhere(self, lib, tmp_path, capsys):
        first, batch = tmp_path / "first.db", tmp_path / "b.csv"
        assert init(first, lib) == 0
        assert run("campaign", "ask", first, "-q", 6, "--out", batch) == 0
        rows = read(batch)
        store, known = tmp_path / "c.db", told(tmp_path / "known.csv", rows, "trial")
        more = ["--measured", known, "--smiles-column", "smiles", "--value-column", "score"]
        assert init(store, lib, *more) == 0
        campaign = Campaign.open(store)
        assert [trial.x[1:] for trial in campaign.results()] == [tuple(ids_of(r).split(" + ")) for r in rows]
        assert run("campaign", "attach", store, "A4 + B4 + C1", 3.5) == 0
        assert run("campaign", "attach", store, "c1ccccc1", 0.5) == 0
        named = write(
            tmp_path / "n.csv", ["reagent_1", "reagent_2", "reagent_3", "score"], [["A3", "B3", "C3", 2]]
        )
        assert run("campaign", "attach", store, "--from", named) == 0
        attached = Campaign.open(store).results()[6:]
        assert [trial.label for trial in attached] == [
            "Cc1cccc2c(=O)n(Cc3ccccc3)c(C)nc12",
            "c1ccccc1",
            "O=c1c2cc(Cl)ccc2nc(-c2ccccc2)n1C1CC1",
        ]
        assert "has no reagent 'Z9'" in refused(capsys, "campaign", "attach", store, "A4 + Z9 + C1", 3.5)

    def test_no_output_replaces_a_list_of_reagents(self, lib, tmp_path, capsys):
        store = tmp_path / "c.db"
        assert init(store, lib) == 0
        for file in (lib, lib.with_name("b.smi")):
            before = file.read_bytes()
            assert "is read as an input" in refused(capsys, "campaign", "ask", store, "--out", file)
            assert file.read_bytes() == before
        assert Campaign.open(store).results() == []


def _columns() -> set[str]:
    return {f"reagent_{number}{end}" for number in (1, 2, 3) for end in ("", "_smiles")}


class TestSuggest:
    def test_products_from_measured_ones(self, lib, tmp_path, capsys):
        store, batch, out = tmp_path / "c.db", tmp_path / "b.csv", tmp_path / "next.csv"
        assert init(store, lib) == 0
        assert run("campaign", "ask", store, "-q", 12, "--out", batch) == 0
        rows = read(batch)
        known = told(tmp_path / "known.csv", rows, "trial", "reagent_1", "reagent_2", "reagent_3")
        base = ["suggest", "--measured", known, "--value-column", "score", "--maximize", "-q", 3, "--seed", 1]
        capsys.readouterr()
        assert run(*base, "--reaction", lib, "--out", out) == 0
        assert "search: " in capsys.readouterr().err
        found = read(out)
        assert set(found[0]) == {
            "rank",
            "smiles",
            "reaction",
            *_columns(),
            "predicted_mean",
            "predicted_std",
            "why",
        }
        assert not {row["smiles"] for row in found} & {row["smiles"] for row in rows}
        assert "one of --library" in refused(capsys, *base, "--out", out)
        assert "for libraries" in refused(
            capsys, *base, "--reaction", lib, "--out", out, "--standardise", "parent"
        )


class TestBadInput:
    @pytest.mark.parametrize(
        ("spoil", "words"),
        [
            (
                lambda f: reactions(f, (SMARTS, ["b.smi", "b.smi", "c.smi"])),
                "has no usable reagent for N[c:4]",
            ),
            (lambda f: reactions(f, (SMARTS, ["a.smi", "none.smi", "c.smi"])), "none.smi: no such file"),
            (lambda f: reactions(f, (SMARTS, ["a.smi", "b.smi"])), "got 2 lists of reagents"),
            (lambda f: reactions(f, ("hello>>", ["a.smi"])), "is no reaction SMARTS"),
            (
                lambda f: reactions(f, (AMIDE, ["c.smi", "b.smi"]), filters={"weight": [1, 2]}),
                "unknown filters weight",
            ),
            (lambda f: f / "none.json", "cannot read"),
        ],
        ids=[
            "matches nothing",
            "missing list",
            "too few lists",
            "no SMARTS",
            "unknown filter",
            "missing file",
        ],
    )
    def test_what_cannot_be_used_leaves_no_campaign(self, lib, tmp_path, capsys, spoil, words):
        store = tmp_path / "c.db"
        argv = ["campaign", "init", store, "--reaction", spoil(lib.parent), "--maximize"]
        assert words in refused(capsys, *argv)
        assert not list(tmp_path.glob("*c.db*"))

    @pytest.mark.parametrize("end", [",]}", "],}"])
    def test_a_comma_too_many(self, lib, tmp_path, capsys, end):
        text = f'{{"smarts": "{AMIDE}", "reagents": ["c.smi", "b.smi"{end}'
        lib.write_text(text, encoding="utf-8")
        said = refused(capsys, "campaign", "init", tmp_path / "c.db", "--reaction", lib, "--maximize")
        assert "is no JSON" in said
        assert (
            "the comma before it is one too many" in said or "trailing comma" in said
        )  # by Python's version

    def test_messy_reagents_are_said_and_listed(self, lib, tmp_path, capsys):
        good = [*AMINES, "NCCN", "CC(C)(C)OC(=O)NCCN", "CCN.Cl"] + [f"{'C' * n}N" for n in range(3, 9)]
        bad = ["C1CC", "N(", "[Na+].CC(=O)[O-]", "C" * 5000 + "N"]
        reagents(lib.parent, "b.smi", [*good[:5], *bad, *good[5:]])
        assert init(tmp_path / "c.db", lib) == 0
        said = capsys.readouterr().err
        assert "4 of 17 unusable, 1 match in several places, 1 carry Boc" in said
        assert "C" * 100 not in said
        listed = read(tmp_path / "c.rejected.csv")
        assert [row["line"] for row in listed] == ["6", "7", "8", "9"]
        assert "more than 300 heavy atoms" in listed[3]["reason"]
        assert "is a salt or mixture" in listed[2]["reason"]
        assert run("campaign", "ask", tmp_path / "c.db", "-q", 30) == 0  # of the others
        labels = [trial.label for trial in Campaign.open(tmp_path / "c.db").results()]
        assert not [label for label in labels if "." in label]  # salts give the product of their base

    def test_reagents_without_a_product_are_said_and_listed(self, lib, tmp_path, capsys):
        reagents(lib.parent, "b.smi", [*AMINES, "NCCCCCCCCCCCCCCCCCCCCCC"])
        file = reactions(lib.parent, (SMARTS, list(LISTS)), filters={"molecular_weight": [None, 400]})
        assert init(tmp_path / "c.db", file) == 0
        said = capsys.readouterr().err
        assert "1 of the reagents gave no product when tried" in said
        (row,) = read(tmp_path / "c.rejected.csv")
        assert row["line"] == "5"
        assert row["content"] == "CCCCCCCCCCCCCCCCCCCCCCN B5"
        assert row["reason"].startswith(
            "component 2 of r1: kept, though none of 9 combinations tried gives a product: "
        )
        assert row["reason"].endswith("molecular weight is above 400")

    def test_one_product_of_two_reactions_and_one_reagent(self, lib, tmp_path, capsys):
        reagents(lib.parent, "one.smi", ["CC(=O)O"])
        twice = reactions(lib.parent, (AMIDE, ["one.smi", "b.smi"]), (AMIDE, ["c.smi", "b.smi"]))
        store = tmp_path / "c.db"
        assert init(store, twice) == 0
        assert run("campaign", "ask", store, "-q", 12) == 0
        assert len({trial.label for trial in Campaign.open(store).results()}) == 12  # of 16 combinations
        assert "no new product" in refused(capsys, "campaign", "ask", store)

    def test_filters_that_let_nothing_through(self, lib, tmp_path, capsys):
        heavy = reactions(lib.parent, (SMARTS, list(LISTS)), filters={"molecular_weight": [3000, None]})
        assert init(tmp_path / "c.db", heavy) == 0
        assert "molecular weight is below 3000" in refused(capsys, "campaign", "ask", tmp_path / "c.db")


class TestLong:
    def test_progress_has_rates(self, lib, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(products, "_EVERY", 0.0)
        assert init(tmp_path / "c.db", lib) == 0
        assert run("campaign", "ask", tmp_path / "c.db", "-q", 4) == 0
        assert "per second, about" in capsys.readouterr().err

    def test_an_interrupted_search_keeps_what_it_made(self, lib, tmp_path, capsys, monkeypatch):
        store, made = tmp_path / "c.db", library.produce
        assert init(store, lib) == 0

        def interrupted(*given):
            yield from made(*given)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(library, "produce", interrupted)
            assert run("campaign", "ask", store, "-q", 4) == 130
        said = capsys.readouterr().err
        assert "products were made and are kept for the next time; nothing was asked for" in said
        assert Campaign.open(store).results() == []
        assert run("campaign", "ask", store, "-q", 4) == 0
