"""Campaigns in which forms of a molecule (salts, charges, stereo) are one molecule."""

from __future__ import annotations

from pathlib import Path

import pytest

from sggp.bayesopt import Box, Campaign, Pool
from sggp.errors import InputError

pytest.importorskip("rdkit")

from sggp.molecules import FingerprintTable, SmilesFingerprinter

SALT, PARENT = "CCCN.Cl", "CCCN"
LIBRARY = [PARENT, "c1ccccc1C(=O)[O-]", "OC(=O)c1ccccc1", "CCO", "C[C@H](N)C(=O)O", "CC(N)C(=O)O"]


@pytest.fixture(scope="module")
def pool() -> Pool:
    return Pool(FingerprintTable.from_smiles(LIBRARY, SmilesFingerprinter(fp_size=64)))


def test_a_measured_salt_is_bound_to_its_parent(pool: Pool, tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    campaign = Campaign(pool, path, maximize=True, seed=1, standardise="parent")
    trial = campaign.attach(SALT, 1.0)
    assert (trial.index, trial.key, trial.label) == (0, PARENT, SALT)
    assert campaign.attach(PARENT, 1.1).label == PARENT
    (match,) = campaign.parent_matches()
    assert (match.row, match.of, match.parent) == (trial.id, 0, PARENT)
    assert (
        match.describe("trial 1", PARENT) == f"trial 1 (with hydrochloride) is the same molecule as {PARENT}"
    )
    other = Campaign(pool, tmp_path / "other.db", maximize=True)
    assert other.attach(SALT, 1.0).index is None
    assert other.parent_matches() == []


def test_library_rows_of_one_parent_are_asked_for_once(pool: Pool, tmp_path: Path) -> None:
    campaign = Campaign(pool, tmp_path / "c.db", maximize=True, seed=1, standardise="parent")
    assert campaign.space.capacity == 5
    assert sorted(min(trial.index or 0, 1) for trial in campaign.ask(5)) == [0, 1, 1, 1, 1]
    asked = {trial.index for trial in campaign.pending}
    assert not {1, 2} <= asked
    assert {4, 5} <= asked
    flat = Campaign(pool, tmp_path / "flat.db", maximize=True, seed=1, standardise="flat")
    assert not {4, 5} <= {trial.index for trial in flat.ask(4)}


def test_reopening_keeps_the_policy(pool: Pool, tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    Campaign(pool, path, maximize=True, standardise="parent")
    read = Campaign.open(path)  # without its library
    assert read.standardise == "parent"
    assert read.attach(SALT, 1.0).key == PARENT
    assert [(match.row, match.of) for match in read.parent_matches()] == [(1, -1)]
    assert Campaign(pool, path).results()[0].index == 0
    with pytest.raises(InputError, match=r"by 'parent'.*another campaign for 'flat'"):
        Campaign(pool, path, standardise="flat")


def test_a_molecule_outside_the_library_is_seen_as_its_parent(pool: Pool, tmp_path: Path) -> None:
    campaign = Campaign(pool, tmp_path / "c.db", maximize=True, standardise="parent")
    salt, plain = campaign.attach("CCCCN.Cl", 1.0), campaign.attach("CCCCN", 2.0)
    assert salt.index is plain.index is None
    features = campaign._bound.features([salt, plain])
    assert features[0].tolist() == features[1].tolist()


def test_what_cannot_be_standardised_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    with pytest.raises(InputError, match="a box has none"):
        Campaign(Box({"a": (0, 1)}), path, maximize=True, standardise="parent")
    with pytest.raises(InputError, match="only molecules"):
        Campaign(Pool([[0.0], [1.0]]), path, maximize=True, standardise="parent")
    with pytest.raises(InputError, match="standardise must be one of"):
        Campaign(Pool([[0.0], [1.0]]), path, maximize=True, standardise="salts")
    assert not path.exists()
