"""What reagents bring, beside averages of the truth; and the outlook over products that were looked at."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from sggp.bayesopt import Campaign, Combinatorial, Effort
from sggp.bayesopt.combinatorial import reagent_effects
from sggp.bayesopt.trials import Place
from sggp.errors import InputError
from sggp.molecules import SmilesFingerprinter
from tests.molecules.reagents import quinazolinones

pytest.importorskip("rdkit")
SIZE = 4
EFFECTS = np.asarray([[0.0, 1.0, 2.0, 5.0], [4.0, 0.0, -1.0, -3.0], [0.5, 0.0, 0.0, -0.5]])
"""Of each reagent of each component."""


def space(size: int = SIZE) -> Combinatorial:
    return Combinatorial(
        quinazolinones(size), fingerprinter=SmilesFingerprinter(fp_size=256), effort=Effort(products=100)
    )


def measured(path: Path, where: Combinatorial, combinations: list[tuple[int, ...]]) -> Campaign:
    """A campaign that knows the sums of the effects of the reagents of some combinations."""
    campaign = Campaign(where, path, maximize=True, seed=1)
    places = where.places(torch.from_numpy(where.library.number(0, combinations)))
    values = [float(sum(EFFECTS[c, row] for c, row in enumerate(rows))) for rows in combinations]
    campaign.attach_many(zip(places, values, strict=True))
    return campaign


ALL = list(itertools.product(range(SIZE), repeat=3))


def test_effects_are_those_of_the_truth(tmp_path: Path) -> None:
    campaign = measured(tmp_path / "c.db", space(), ALL)
    model = campaign.model(64, generator=0)
    found = reagent_effects(model, campaign.space, campaign.results(), most=100, generator=0)
    assert [effect.mean for effect in found] == sorted((e.mean for e in found), reverse=True)
    assert len(found) == 3 * SIZE
    assert {effect.measured for effect in found} == {16}
    for component in (1, 2, 3):  # beside the average reagent
        assert sum(e.mean for e in found if e.component == component) == pytest.approx(0, abs=1e-6)
    components = campaign.space.library.reactions[0].components
    for effect in found:
        rows = EFFECTS[effect.component - 1]
        row = components[effect.component - 1].row_of[effect.id]
        assert components[effect.component - 1].smiles[row] == effect.smiles
        assert effect.mean == pytest.approx(rows[row] - rows.mean(), abs=0.3)
        assert 0 < effect.std < 0.5


def test_few_measurements_leave_more_doubt_and_few_products_are_made(tmp_path: Path) -> None:
    few = measured(tmp_path / "few.db", space(), ALL[::6])
    found = reagent_effects(few.model(64, generator=0), few.space, few.results(), most=30, generator=0)
    assert len(few.space.library.numbers) <= len(ALL[::6]) + 30 + 3
    every = measured(tmp_path / "all.db", space(), ALL)
    sure = reagent_effects(every.model(64, generator=0), every.space, every.results(), generator=0)
    assert np.mean([e.std for e in found]) > 2 * np.mean([e.std for e in sure])


def test_nothing_to_compare_and_too_few_paths(tmp_path: Path) -> None:
    campaign = measured(tmp_path / "c.db", space(), ALL[:1] * 5)
    assert reagent_effects(campaign.model(64, generator=0), campaign.space, campaign.results()) == []
    with pytest.raises(InputError, match="carries 4 sample paths"):
        reagent_effects(campaign.model(4, generator=0), campaign.space, campaign.results())


def test_the_outlook_speaks_of_what_was_looked_at(tmp_path: Path) -> None:
    campaign = measured(tmp_path / "c.db", space(8), ALL[::3])
    found = campaign.outlook(num_samples=64, generator=0)
    looked_at = len(campaign.space.library.products)
    assert found.size == looked_at < len(campaign.space)
    assert found.measured == len(ALL[::3])
    assert f"the {looked_at:,} products that searches looked at, of 512 combinations" in found.sentences()[-1]
    assert "of the searched part" in " ".join(found.sentences()).lower()
    again = campaign.outlook(num_samples=64, generator=0)  # no search is needed now
    assert again.size is not None
    assert again.size >= looked_at
    trials = campaign.ask(2)
    campaign.fail(trials[0].id, "no product")
    assert campaign.outlook(num_samples=64, generator=0).conditions == ("the measurement succeeds",)


def test_a_product_that_was_known_by_its_smiles_gets_its_reagents() -> None:
    where = space()
    (name,) = where.keys([17])
    other = space()
    assert int(other.find([name])[0]) >= len(other)
    other.recall([Place(x=("quinazolinone", "no", "such", "ids")), where.places(torch.tensor([17]))[0]])
    assert int(other.find([name])[0]) == 17
