"""Reactions, their reagents and the products made of them, good input and bad."""

from __future__ import annotations

import gzip
import json
import logging
import sqlite3

import numpy as np
import pytest

from sggp.errors import DataFileError, DtypeError, InputError
from sggp.molecules import ProductFilter, Reaction, ReactionLibrary, SmilesFingerprinter, read_reactions
from tests.molecules.reagents import AMIDE, QUINAZOLINONE, quinazolinones

pytest.importorskip("rdkit")
SMALL = SmilesFingerprinter(fp_size=256)


def library(*reactions: Reaction, **options: object) -> ReactionLibrary:
    return ReactionLibrary(list(reactions), fingerprinter=SMALL, **options)


def products_of(made: ReactionLibrary, numbers: object) -> list[str]:
    return [made.products.canonical[place] if place >= 0 else "" for place in made.make(numbers)]


# numbers ----------------------------------------------------------------------------------------------------------


def test_every_number_is_one_combination_and_back() -> None:
    amide = Reaction(AMIDE, [["CC(=O)O", "CCC(=O)O", "OC=O"], ["NC", "NCC"]], "amide")
    made = library(quinazolinones(3), amide, outcomes=2)
    assert len(made) == 2 * (27 + 6)
    numbers = np.arange(len(made))
    recipes = made.recipes(numbers)
    assert len(set(recipes)) == len(made)
    back = [int(made.number(r.reaction, [r.rows], r.which)[0]) for r in recipes]
    assert back == numbers.tolist()
    assert made.reagents(recipes[-1]) == ("O=CO", "CCN")


@pytest.mark.parametrize("number", [-1, 27])
def test_a_number_outside_is_refused(number: int) -> None:
    with pytest.raises(InputError, match=r"numbers 0 … 26; got"):
        library(quinazolinones(3)).make([number])


def test_two_to_the_sixty_two_is_the_most() -> None:
    huge = Reaction(AMIDE, [["CC(=O)O"], ["NC"]], "amide")
    with pytest.raises(InputError, match=r"more than 2\^62"):
        library(huge, outcomes=2**62 + 1)


# products ---------------------------------------------------------------------------------------------------------


def test_products_are_what_the_reaction_says() -> None:
    made = library(Reaction(AMIDE, [["CC(=O)O", "OC(=O)c1ccccc1"], ["NC", "NC1CC1"]]))
    assert products_of(made, [0, 1, 2, 3]) == [
        "CNC(C)=O",
        "CC(=O)NC1CC1",
        "CNC(=O)c1ccccc1",
        "O=C(NC1CC1)c1ccccc1",
    ]
    direct = SMALL.transform(["CC(=O)NC", "O=C(NC1CC1)c1ccccc1"])
    assert (made.products[[0, 3]].numpy() == direct).all()


def test_only_what_is_asked_for_is_made() -> None:
    made = library(quinazolinones())
    assert len(made) == 8000
    made.make([5, 7, 5])
    assert made.made == len(made.products) == 2
    made.make([5, 8])
    assert made.made == 3


def test_two_reactions_may_give_one_product() -> None:
    acids, amines = ["CC(=O)O", "CCC(=O)O"], ["NC", "NCC"]
    chloride = "[C:1](=[O:2])Cl.[NX3;H2:3][#6:4]>>[C:1](=[O:2])[N:3][#6:4]"
    made = library(Reaction(AMIDE, [acids, amines], "a"), Reaction(chloride, [["CC(=O)Cl"], amines], "b"))
    positions = made.make(np.arange(len(made)))
    assert len(made.products) == 4
    assert positions.tolist() == [0, 1, 2, 3, 0, 1]
    assert made.numbers.tolist() == [0, 1, 2, 3]


def test_reagents_that_match_twice_have_several_products() -> None:
    reagents = [["CC(=O)O"], ["NCC(C)N", "NC"]]
    reaction = Reaction(AMIDE, reagents)
    assert reaction.components[1].several == 1
    assert "1 match in several places" in "\n".join(reaction.describe())
    assert products_of(library(reaction), [0]) == ["CC(=O)NC(C)CN"]
    both = library(reaction, outcomes=2)
    assert products_of(both, [0, 1, 2, 3]) == ["CC(=O)NC(C)CN", "CC(=O)NCC(C)N", "CNC(C)=O", ""]
    assert both.missing == {"there are only 1 different products": 1}


def test_salts_give_the_product_alone() -> None:
    made = library(Reaction(AMIDE, [["CC(=O)O"], ["NC.Cl", "Cl.NCC"]]))
    assert products_of(made, [0, 1]) == ["CNC(C)=O", "CCNC(C)=O"]


def test_a_product_that_cannot_be_is_missing_with_the_reason() -> None:
    five_bonds = "[C:1](=[O:2])[OH].[NX3;H2:3][#6:4]>>[C:1](=[O:2])=[N:3]#[#6:4]"
    made = library(Reaction(five_bonds, [["CC(=O)O"], ["NC"]]))
    assert made.make([0]).tolist() == [-1]
    (reason,) = made.missing
    assert "cannot sanitize the product" in reason
    assert "valence" in reason.lower()


def test_molecules_from_elsewhere_have_numbers_of_their_own() -> None:
    made = library(Reaction(AMIDE, [["CC(=O)O"], ["NC", "NCC"]]))
    made.make([0])
    assert made.add(["c1ccccc1", "CNC(=O)C"]).tolist() == [3, 0]
    assert made.find(["CNC(C)=O", "c1ccccc1", "CCC"]).tolist() == [0, 3, -1]
    assert made.positions([3, 0, 1]).tolist() == [1, 0, 2]
    with pytest.raises(InputError, match=r"'C\(C' is no molecule"):
        made.add(["C(C"])


# filters ----------------------------------------------------------------------------------------------------------


def _no_rings(smiles: str) -> bool:
    return "1" not in smiles


@pytest.mark.parametrize(
    ("given", "left", "reason"),
    [
        ({"molecular_weight": (None, 80)}, ["CNC(C)=O"], "molecular weight is above 80"),
        ({"logp": (0, None)}, ["CNC(=O)c1ccccc1"], "log P is below 0"),
        ({"exclude": ["c1ccccc1"]}, ["CNC(C)=O"], "holds c1ccccc1"),
        ({"keep": _no_rings}, ["CNC(C)=O"], "left out by the user's filter"),
    ],
)
def test_filters_leave_products_out(given: dict[str, object], left: list[str], reason: str) -> None:
    made = library(Reaction(AMIDE, [["CC(=O)O", "OC(=O)c1ccccc1"], ["NC"]]), filters=ProductFilter(**given))
    assert [name for name in products_of(made, [0, 1]) if name] == left
    assert next(iter(made.missing)).startswith(reason)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"logp": (3, 1)}, "holds nothing"),
        ({"logp": 3}, r"must be a pair \(low, high\)"),
        ({"exclude": "c1ccccc1"}, "must be a list of SMARTS"),
        ({"keep": 3}, "must be a function"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises((InputError, DtypeError), match=words):
        ProductFilter(**given)


def test_a_filter_that_is_no_smarts_is_refused() -> None:
    with pytest.raises(InputError, match=r"'c1cc' is no SMARTS"):
        library(quinazolinones(3), filters=ProductFilter(exclude=["c1cc"]))


# reagents -----------------------------------------------------------------------------------------------------------


def test_every_reagent_that_cannot_be_used_is_listed() -> None:
    acids = ["CC(=O)O", "C(C", "CC", 7, "OC(=O)C", "OC(=O)" + "C" * 400]
    reaction = Reaction(AMIDE, [acids, [("NC", "a"), ("CC(=O)N", "b")]])
    assert reaction.sizes == (1, 1)
    assert reaction.components[0].repeats == 1
    told = {(one.component, one.row, one.id): one.reason for one in reaction.refused}
    assert "not SMILES syntax" in told[1, 1, "1"]
    assert told[1, 2, "2"].startswith("does not match")
    assert told[1, 3, "3"] == "not text but int"
    assert told[1, 5, "5"] == "has more than 300 heavy atoms"
    assert told[2, 1, "b"].startswith("does not match")
    text = "\n".join(reaction.describe())
    assert "1 x 1 = 1 combinations" in text
    assert "4 of 6 unusable, 1 repeated" in text


def test_a_product_of_thousands_of_atoms_is_not_made() -> None:
    long = "OC(=O)" + "C" * 200
    made = library(Reaction(AMIDE, [["CC(=O)O", long], ["NC" + "C" * 150, "NC"]]))
    assert made.make(np.arange(4)).tolist() == [0, 1, -1, 2]
    assert made.missing == {"the reagents have more than 300 heavy atoms together": 1}


def test_protecting_groups_are_pointed_out() -> None:
    reaction = Reaction(AMIDE, [["CC(=O)O"], ["NCCNC(=O)OC(C)(C)C", "NCCO[Si](C)(C)C", "NC"]])
    assert reaction.components[1].protected == {"Boc": 1, "silyl ether": 1}
    assert "1 carry Boc, 1 carry silyl ether" in "\n".join(reaction.describe())


@pytest.mark.parametrize(
    ("smarts", "reagents", "words"),
    [
        (AMIDE, [["CC"], ["NC"]], r"component 1 of reaction has no usable reagent .*CC does not match"),
        (AMIDE, [["CC(=O)O"], []], "component 2 of reaction has no usable reagent .*its list is empty"),
        (AMIDE, [["CC(=O)O"]], r"has 2 reactants, .* and got 1 lists"),
        ("CCO", [["CC"]], "is no reaction SMARTS"),
        ("[C:1]>>", [["CC"]], "RDKit finds 1 errors in it"),
        ("[C:1].[C:2].[C:3].[C:4].[C:5]>>[C:1]", [["C"]] * 5, "has 5 and 1"),
        ("[C:1]>>[C:1][", [["CC"]], "is no reaction SMARTS"),
    ],
)
def test_a_reaction_that_cannot_be_used_is_refused(smarts: str, reagents: list[object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Reaction(smarts, reagents)


def test_reagents_that_are_no_list_are_refused() -> None:
    with pytest.raises(DtypeError, match="reagents of component 1 must be a list of SMILES or a path"):
        Reaction(AMIDE, [3, ["NC"]])


def test_two_reactions_need_two_names() -> None:
    one = quinazolinones(2)
    with pytest.raises(InputError, match="two reactions have one name: quinazolinone, quinazolinone"):
        library(one, one)


# files --------------------------------------------------------------------------------------------------------------


def test_a_reaction_file_finds_its_reagents_beside_it(tmp_path: object) -> None:
    (tmp_path / "acids.smi").write_text("CC(=O)O acid-1\nOC(=O)c1ccccc1 acid-2\nC(C broken\n")
    with gzip.open(tmp_path / "amines.smi.gz", "wt") as file:
        file.write("NC amine-1\nNCC amine-2\n")
    entry = {"name": "amide", "smarts": AMIDE, "reagents": ["acids.smi", "amines.smi.gz"]}
    content = {"reactions": [entry], "filters": {"molecular_weight": [None, 300]}}
    (tmp_path / "r.json").write_text(json.dumps(content))
    (reaction,), filters = read_reactions(tmp_path / "r.json")
    assert reaction.sizes == (2, 2)
    assert reaction.ids((1, 0)) == ("acid-2", "amine-1")
    assert [one.smiles for one in reaction.refused] == ["C(C"]
    assert ProductFilter.from_json(filters).molecular_weight == (None, 300.0)
    (tmp_path / "one.json").write_text(json.dumps(entry))
    assert read_reactions(tmp_path / "one.json")[0][0].name == "amide"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is no JSON"),
        ("[]", "holds no reactions"),
        ('{"smarts": "C>>C"}', "reaction 1 of .* needs smarts and reagents"),
        (json.dumps({"smarts": QUINAZOLINONE, "reagents": ["a.smi", "b.smi", "c.smi"]}), "a.smi"),
        ('{"reactions": [{"smarts": "C>>C", "reagents": ["a.smi"]}], "filter": {}}', 'write it as "filters"'),
        ('{"reactions": [{"smarts": "C>>C", "reagents": [], "filters": {}}]}', 'beside "reactions"'),
        ('{"smarts": "C>>C", "reagents": ["a.smi"], "logp": [0, 3]}', '"logp" is not read where it stands'),
    ],
)
def test_a_reaction_file_that_cannot_be_read_says_why(tmp_path: object, content: str, words: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(DataFileError, match=words):
        read_reactions(tmp_path / "r.json")


def test_a_reaction_file_may_have_a_mark_and_comments(tmp_path: object) -> None:
    (tmp_path / "a.smi").write_text("CCO\n")
    entry = {"smarts": "[C:1][OH]>>[C:1]Cl", "reagents": ["a.smi"], "source": "a vendor"}
    (tmp_path / "r.json").write_text(json.dumps({"reactions": [entry], "_note": "x"}), encoding="utf-8-sig")
    (reaction,), filters = read_reactions(tmp_path / "r.json")
    assert reaction.components[0].smiles == ("CCO",)
    assert filters == {}


def test_an_unknown_filter_is_refused() -> None:
    with pytest.raises(InputError, match="unknown filters weight"):
        ProductFilter.from_json({"weight": [0, 1]})


# the cache ----------------------------------------------------------------------------------------------------------


def test_products_are_kept_for_the_next_time(tmp_path: object) -> None:
    first = library(quinazolinones(4), cache=tmp_path)
    numbers = np.arange(40)
    first.make(numbers)
    again = library(quinazolinones(4), cache=tmp_path)
    assert (again.make(numbers) == first.make(numbers)).all()
    assert (first.made, again.made) == (40, 0)
    assert (again.products[:] == first.products[:]).all()
    other = library(quinazolinones(4), cache=tmp_path, filters=ProductFilter(logp=(None, 2)))
    other.make(numbers)
    assert other.made == 40  # other filters, other products
    longer = library(quinazolinones(5), cache=tmp_path)
    longer.make(longer.number(0, [[1, 1, 2]]))
    assert longer.made == 0  # by what it is made of, whatever its number


@pytest.mark.parametrize("content", [b"hello world" * 1000, bytes(8192)])
def test_a_damaged_cache_is_begun_anew(
    tmp_path: object, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    first = library(quinazolinones(2), cache=tmp_path)
    first.make([0, 1])
    (file,) = tmp_path.glob("products-*.db")
    file.write_bytes(content)
    again = library(quinazolinones(2), cache=tmp_path)
    assert "begun anew" in caplog.text
    assert (again.make([0, 1]) == first.make([0, 1])).all()
    once_more = library(quinazolinones(2), cache=tmp_path)
    once_more.make([0, 1])
    assert once_more.made == 0


def test_what_was_made_stays_when_the_rest_is_interrupted(tmp_path: object) -> None:
    def stop(done: int, total: int) -> None:
        if done >= 250:
            raise KeyboardInterrupt

    made = library(quinazolinones(10), cache=tmp_path, progress=stop)
    with pytest.raises(KeyboardInterrupt):
        made.make(np.arange(600))
    assert made.made == len(made.products) == 250
    after = library(quinazolinones(10), cache=tmp_path)
    after.make(np.arange(600))
    assert after.made == 350


def test_a_cache_that_fails_is_left_alone_and_said(
    tmp_path: object, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = logging.getLogger("sggp.molecules.reactions.library")
    monkeypatch.setattr(own, "disabled", False)  # as import-linter's logging leaves it, in the same process
    made = library(quinazolinones(3), cache=tmp_path)
    (path,) = tmp_path.glob("*.db")
    with sqlite3.connect(path) as file:
        file.execute("DROP TABLE product")
    with caplog.at_level(logging.WARNING):
        assert (made.make([0, 1]) >= 0).all()
    assert "no such table: product; products are no longer kept" in caplog.text
    with pytest.raises(DataFileError, match="cannot keep products in"):
        library(quinazolinones(3), cache=path)


# reagents without a product -----------------------------------------------------------------------------------------


def test_a_reagent_that_never_gives_a_product_is_named_with_its_reason() -> None:
    heavy = "NCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC"
    acids = [("CC(=O)O", "acetic"), ("CCC(=O)O", "propionic"), ("OC(=O)C1CC1", "cyclopropyl")]
    reaction = Reaction(AMIDE, [acids, ["NC", (heavy, "grease"), "NCC"]], "amide")
    made = library(reaction, filters=ProductFilter(molecular_weight=(None, 300)))
    ((one,),) = made.unproductive
    assert (one.component, one.row, one.id, one.smiles) == (2, 1, "grease", f"{heavy[1:]}N")
    assert (
        one.reason
        == "kept, though none of 2 combinations tried gives a product: molecular weight is above 300"
    )
    assert made.made == 0
    assert library(reaction).unproductive == [[]]


def test_reagents_are_not_blamed_for_their_partners() -> None:
    grease = [f"N{'C' * length}" for length in range(25, 45)]
    acids = [f"OC(=O){'C' * length}" for length in range(1, 8)]
    reaction = Reaction(AMIDE, [acids, [*grease, "NC"]], "amide")
    made = library(reaction, filters=ProductFilter(molecular_weight=(None, 250)))
    ((*lost,),) = made.unproductive
    assert [one.component for one in lost] == [2] * 20
    none = library(reaction, filters=ProductFilter(molecular_weight=(None, 10)))
    assert len(none.unproductive[0]) == 28


def test_a_reagent_without_a_product_is_named_with_its_line(tmp_path) -> None:
    path = tmp_path / "amines.smi"
    path.write_text("nonsense x\nCN methyl\nCN again\nNCC(=O)OC(C)(C)C ester\n")
    kept = ProductFilter(exclude=("C(=O)OC",))
    made = library(Reaction(AMIDE, [["CC(=O)O"], path], "amide"), filters=kept)
    ((one,),) = made.unproductive
    assert (one.id, one.line, one.source) == ("ester", 4, str(path))
    assert one.reason == "kept, though the one combination tried gives no product: holds C(=O)OC"
