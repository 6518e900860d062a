"""What the reagents of a product are called: never by the id of another molecule."""

from __future__ import annotations

import pytest

from sggp.bayesopt import Campaign, Combinatorial
from sggp.errors import Exhausted, InputError
from sggp.molecules import Reaction, SmilesFingerprinter
from tests.molecules.reagents import AMIDE

pytest.importorskip("rdkit")
SMALL = SmilesFingerprinter(fp_size=256)
AMINES = [("CN", "B1"), ("NCC", "B2")]


def space(acids: object, amines: object = AMINES) -> Combinatorial:
    return Combinatorial(Reaction(AMIDE, [acids, amines], "amide"), fingerprinter=SMALL)


@pytest.mark.parametrize("shared", ["A1", ""])
def test_an_id_of_two_reagents_is_the_name_of_neither(shared: str) -> None:
    """The benzamide was to be made of acetic acid: the first of its id."""
    made = space([("CC(=O)O", shared), ("OC(=O)c1ccccc1", shared), ("CCC(=O)O", "A3")])
    for number in range(len(made)):
        place = made.place(number)
        _, ids, smiles = made.reagents(place)
        recipe = made.library.recipes([number])[0]
        assert smiles == made.library.reagents(recipe)
        assert made.place(list(place.x)).key == place.key
        assert made.place(" + ".join(ids)).key == place.key
    assert made.place("A3 + B1").key == "CCC(=O)NC"
    with pytest.raises(InputError, match=r"has no reagent 'A1'"):
        made.place("A1 + B1")
    assert "2 without an id of their own" in "\n".join(made.library.describe())


def test_a_reagent_that_is_repeated_answers_to_each_of_its_ids() -> None:
    made = space([("CC(=O)O", "A1"), ("OC(C)=O", "A2"), ("CCC(=O)O", "A3")])
    assert len(made) == 4
    assert made.place("A2 + B1").key == made.place("A1 + B1").key == "CNC(C)=O"
    assert made.place("A2 + B1").x == ("amide", "A1", "B1")


def test_reagents_are_not_named_by_a_row_where_another_one_stands_now(tmp_path) -> None:
    """Lists without ids are known by rows; sorted by halves, they named the acid that stands there today."""
    acids = ["CC(=O)O", "OC(=O)c1ccccc1", "CCC(=O)O", "CCCC(=O)O"]
    campaign = Campaign(space(acids), tmp_path / "a.db", maximize=True, num_initial=8, seed=1)
    before = {t.label: campaign.space.reagents(t)[2] for t in campaign.ask(8)}
    campaign = Campaign(space(acids[::-1]), tmp_path / "a.db", maximize=True)
    after = {t.label: campaign.space.reagents(t)[2] for t in campaign.pending}
    assert before.keys() == after.keys()
    assert all("" not in own for own in before.values())
    assert all(after[label] in (before[label], ("", "")) for label in before)


def test_how_many_products_are_left_is_said(tmp_path) -> None:
    """Of nine combinations that give six products, seven were 'all known' before one was asked for."""
    ether, alcohols = "[C:1][OH].[C:2][OH]>>[C:1]O[C:2]", ["CO", "CCO", "CCCO"]
    made = Combinatorial(Reaction(ether, [alcohols, alcohols]), fingerprinter=SMALL)
    campaign = Campaign(made, tmp_path / "a.db", maximize=True, seed=1)
    with pytest.raises(Exhausted, match="only 6 points are left"):
        campaign.ask(7)
    assert len({trial.key for trial in campaign.ask(6)}) == 6
    with pytest.raises(Exhausted, match="all are known"):
        campaign.ask(1)
