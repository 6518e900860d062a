"""Libraries with several fingerprints: every door to a model weighs them."""

from __future__ import annotations

import warnings

import pytest
import torch

pytest.importorskip("rdkit")

from sggp.bayesopt import Campaign, Pool
from sggp.bayesopt.screening import screen
from sggp.datasets import nci_first_5k
from sggp.errors import MoleculeWarning
from sggp.molecules import FingerprintTable, SmilesFingerprinter
from sggp.molecules.encoding.parts import COMBINED


@pytest.fixture(scope="module")
def table():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MoleculeWarning)
        return FingerprintTable.from_smiles(
            nci_first_5k().smiles[:300], on_invalid="drop", on_duplicate="drop"
        )


def values(table):
    """A smooth function of two descriptors: weight and heavy atoms."""
    start, _ = table.parts["descriptors"]
    stored = table[:][:, [start, start + 9]].double()
    return (stored / 40).sin().sum(1)


def test_a_campaign_weighs_the_parts_of_its_table(table, tmp_path):
    truth = values(table)
    campaign = Campaign(Pool(table), tmp_path / "c.db", maximize=True, seed=1)
    campaign.attach_many([(row, float(truth[row])) for row in range(80)])
    weights = campaign.model().weights
    assert list(weights) == list(COMBINED)
    assert max(weights, key=weights.get) == "descriptors"
    assert len(campaign.ask(3)) == 3


def test_a_campaign_over_one_fingerprint_has_one_kernel(tmp_path):
    table = FingerprintTable.from_smiles(["C" * n + "O" for n in range(1, 15)], SmilesFingerprinter())
    campaign = Campaign(Pool(table), tmp_path / "c.db", maximize=True, seed=1)
    campaign.attach_many([(row, float(row)) for row in range(6)])
    assert Pool(table).parts is None
    assert campaign.model().weights == {}


def test_a_screening_over_several_fingerprints_finds_more_than_one_that_does_not_know(table):
    """The descriptors alone hold the function; the rows of torsions alone hardly tell it."""
    truth = values(table)
    known = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:40].tolist()
    found = {
        name: screen(pool, truth, known, rounds=3, batch_size=8, generator=0).top_found(20)[1]
        for name, pool in (("all", table), ("torsions", table.part("torsions")))
    }
    assert found["all"] > found["torsions"]
