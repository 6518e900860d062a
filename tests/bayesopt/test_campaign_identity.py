"""Trials are what they are, whatever row they stand in, whoever asks, and whether the library is there or not."""

from __future__ import annotations

import sqlite3
import warnings
from contextlib import closing

import pytest
import torch

from sggp.bayesopt import Box, Campaign, Pool
from sggp.bayesopt.rules import Rule
from sggp.errors import Exhausted, InputError, LibraryChanged, MoleculeError

SQUARE = [[0.0, 1.0], [-2.0, 2.0]]
SMILES = [
    "CCO",
    "c1ccccc1",
    "CCN",
    "CCC",
    "C1CCCCC1",
    "CC(=O)O",
    "CCCl",
    "COC",
    "CC#N",
    "C=C",
    "CCS",
    "C[n+]1ccccc1",
]


def molecules(smiles):
    tables = pytest.importorskip("sggp.molecules")
    pytest.importorskip("rdkit")
    return Pool(tables.FingerprintTable.from_smiles(list(smiles)))


@pytest.fixture
def quiet():
    """No warning is an accident here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def started(path) -> Campaign:
    """Five molecules of the library, three of them measured as their length, and one beside it."""
    campaign = Campaign(molecules(SMILES), path, maximize=True, seed=1, num_initial=4)
    for trial in campaign.ask(5)[:3]:
        campaign.tell(trial.id, float(len(trial.smiles)))
    campaign.attach("CCCCCCBr", 8.0)
    return campaign


@pytest.mark.usefixtures("quiet")
def test_a_library_that_is_reordered_or_grown_changes_nothing(tmp_path):
    before = started(tmp_path / "c.db").results()
    for library in (SMILES[::-1], ["CCCCC", *SMILES[3:], "CCCCCC", *SMILES[:3]]):
        campaign = Campaign(molecules(library), tmp_path / "c.db")
        found = campaign.results()
        assert [(t.key, t.value, t.state) for t in found] == [(t.key, t.value, t.state) for t in before]
        inside = [t for t in found if t.index is not None]
        assert [library[t.index] for t in inside] == [t.smiles for t in before[:5]]
        model = campaign.model(generator=0)
        assert model.x.shape[0] == 4
    asked = [trial.smiles for trial in campaign.ask(7)]
    assert not {t.smiles for t in before} & set(asked)
    assert len(set(asked)) == 7


@pytest.mark.usefixtures("quiet")
def test_swapped_lines_leave_values_with_their_molecules(tmp_path):
    values = {t.smiles: t.value for t in started(tmp_path / "c.db").results()}
    swapped = list(SMILES)
    swapped[0:12:2], swapped[1:12:2] = SMILES[1:12:2], SMILES[0:12:2]
    campaign = Campaign(molecules(swapped), tmp_path / "c.db")
    assert {t.smiles: t.value for t in campaign.results()} == values
    assert not set(values) & {t.smiles for t in campaign.ask(7)}
    written = [molecules([t.smiles]).rows([0])[0] for t in campaign.results() if t.value is not None]
    assert torch.equal(campaign.model(generator=0).x.long(), torch.stack(written).long())


def test_what_vanished_is_named_and_the_rest_goes_on(tmp_path):
    before = started(tmp_path / "c.db").results()
    lost = [before[0].smiles, before[4].smiles]
    rest = [text for text in SMILES if text not in lost]
    with pytest.warns(LibraryChanged, match=r"2 of its 6 trials.*pending: 5") as caught:
        campaign = Campaign(molecules(rest), tmp_path / "c.db")
    assert all(text in str(caught[0].message) for text in lost)
    assert [t.value for t in campaign.results()] == [t.value for t in before]
    assert campaign.model(generator=0).x.shape[0] == 4  # its SMILES says what the model needs
    campaign.tell(5, 2.0)
    campaign.withdraw(1, "not ours")
    assert not set(lost) & {t.smiles for t in campaign.ask(7)}


def test_exact_features_are_an_identity_too(tmp_path):
    table = torch.randint(0, 3, (12, 6), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    campaign = Campaign(Pool(table), tmp_path / "c.db", maximize=True, seed=1, num_initial=20)
    rows = [trial.index for trial in campaign.ask(4)]
    campaign.attach(table[rows[0]], 1.0)  # is a repeat of that row
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    moved = Campaign(Pool(table[order]), tmp_path / "c.db")
    assert [int(order[t.index]) for t in moved.results()] == [*rows, rows[0]]
    with pytest.warns(LibraryChanged, match="the model cannot use") as caught:
        gone = Campaign(Pool(table[[row for row in range(12) if row != rows[0]]]), tmp_path / "c.db")
    assert "1 of them the model" in str(caught[0].message)
    assert len(gone.ask(8)) == 8


def test_twins_of_known_candidates_are_not_asked_for(tmp_path):
    pool = molecules(["CCO", "OCC", "C(O)C", "CCN", "NCC", "CCC"])
    campaign = Campaign(pool, tmp_path / "c.db", maximize=True, seed=1, num_initial=20)
    campaign.attach("C(C)O", 1.0)
    assert {t.key for t in campaign.ask(2)} == {"CCN", "CCC"}
    with pytest.raises(Exhausted):
        campaign.ask(1)


def test_reading_and_telling_need_no_library(tmp_path):
    before = started(tmp_path / "c.db").results()
    campaign = Campaign.open(tmp_path / "c.db")
    assert not campaign.has_space
    assert [t.key for t in campaign.results()] == [t.key for t in before]
    campaign.tell(4, 3.0)
    campaign.fail(5, "lost")
    campaign.amend(1, 9.0, "misread")
    campaign.attach("OCCO", 1.0)
    assert campaign.best()[0].id == 1
    for attempt in (campaign.ask, campaign.model, lambda: campaign.space, lambda: campaign.attach(3, 1.0)):
        with pytest.raises(InputError, match="without its pool"):
            attempt()
    with pytest.raises(MoleculeError):
        campaign.attach("no molecule", 1.0)
    box = Campaign(Box(SQUARE), tmp_path / "b.db", maximize="min", seed=1)
    assert len(Campaign.open(tmp_path / "b.db").ask(2)) == len(box.pending) == 2


def test_molecules_outside_the_library_cost_little_and_keep_their_smiles(tmp_path):
    path = tmp_path / "c.db"
    campaign = Campaign(molecules(SMILES), path, maximize=True, seed=1)
    size = path.stat().st_size
    campaign.attach_many([("C" * n + "O", float(n)) for n in range(20, 120)])
    assert (path.stat().st_size - size) / 100 < 1500
    assert campaign.results()[0].smiles == "C" * 20 + "O"
    assert campaign.model(generator=0).x.shape == (100, campaign.space.rows([0]).shape[1])


# boxes --------------------------------------------------------------------------------------------------------------


class Corner(Rule):
    """Always the same corner, whatever is known."""

    def functions(self, posterior, generator):
        raise NotImplementedError

    def pick(self, posterior, look, generator):
        return torch.ones(self.batch_size, 2, dtype=torch.float64), torch.zeros(self.batch_size)

    def note(self, slot, value, scaling):
        return "the corner"


def test_a_failed_or_measured_point_of_a_box_is_not_asked_again(tmp_path):
    campaign = Campaign(Box(SQUARE), tmp_path / "c.db", maximize=True, seed=1, num_initial=1, rule=Corner)
    campaign.attach([0.5, 0.5], 1.0)
    first = campaign.ask(4)
    assert [trial.x for trial in first].count((1.0, 2.0)) == 1
    assert first[0].why.endswith("the corner")
    campaign.fail(first[0].id, "boils over")
    for trial in [*campaign.ask(3), *campaign.ask(1)]:
        assert trial.x != (1.0, 2.0)
    campaign.withdraw(first[0].id, "another pot")
    assert campaign.ask(1)[0].x == (1.0, 2.0)
    points = torch.tensor([t.x for t in campaign.results() if t.state != "withdrawn"], dtype=torch.float64)
    apart = torch.cdist(points / torch.tensor([1.0, 4.0]), points / torch.tensor([1.0, 4.0]), p=float("inf"))
    assert apart[~torch.eye(len(points), dtype=torch.bool)].min() > 1e-6


@pytest.mark.parametrize("model", [False, True])
def test_two_askers_get_different_points(tmp_path, model):
    """The second asks while the first is choosing: on what it saw, both would choose the same."""
    for name, space in (("box.db", Box(SQUARE)), ("pool.db", Pool(torch.arange(40).reshape(40, 1)))):
        path = tmp_path / name
        one = Campaign(space, path, maximize=True, seed=1, num_initial=2 if model else 50)
        for number, x in enumerate(([0.1, 0.1], [0.9, 1.0]) if name == "box.db" else (3, 30)):
            one.attach(x, float(number))
        other = Campaign(space, path)
        usual, others = one._propose, []

        def propose(*arguments, usual=usual, others=others, other=other):
            found = usual(*arguments)
            if not others:
                others += other.ask(3)
            return found

        one._propose = propose
        mine = one.ask(3)
        key = (lambda t: t.x) if name == "box.db" else (lambda t: t.index)
        assert len({key(trial) for trial in (*mine, *others)}) == 6
        assert [t.batch for t in (*others, *mine)] == [1, 1, 1, 2, 2, 2]
        assert len(one.results()) == 8


def test_a_result_that_comes_in_between_does_not_undo_the_choice(tmp_path):
    one = Campaign(Box(SQUARE), tmp_path / "c.db", maximize=True, seed=1)
    first = one.ask(2)
    usual, calls = one._propose, []

    def propose(*arguments):
        calls.append(1)
        Campaign.open(tmp_path / "c.db").tell(first[0].id, 1.0)
        return usual(*arguments)

    one._propose = propose
    assert len(one.ask(2)) == 2
    assert len(calls) == 1


def test_rows_that_another_program_took_out_are_refused(tmp_path):
    """The file says so, not the next batch."""
    started(tmp_path / "c.db")
    with closing(sqlite3.connect(tmp_path / "c.db")) as db:
        db.execute("DELETE FROM trials WHERE id > 2")
        db.commit()
    with pytest.raises(InputError, match="damaged"):
        Campaign(molecules(SMILES), tmp_path / "c.db")


def test_a_molecule_is_found_when_its_canonical_smiles_is_written_otherwise(tmp_path):
    """Another version of RDKit writes another one; a measured molecule was then proposed again."""
    pool = molecules(SMILES)
    other = type(pool.table.canonical).pack(f"{smiles} |r|" for smiles in pool.table.canonical)
    pool.table.canonical = other
    campaign = Campaign(pool, tmp_path / "c.db", maximize=True, seed=1, num_initial=4)
    for trial in campaign.ask(5):
        campaign.tell(trial.id, float(len(trial.smiles)))
    measured = {t.smiles for t in campaign.results()}
    assert {t.key for t in campaign.results()} < set(other)
    campaign = Campaign(molecules(SMILES[::-1]), tmp_path / "c.db")
    assert all(SMILES[::-1][t.index] == t.smiles for t in campaign.results())
    assert measured.isdisjoint(t.smiles for t in campaign.ask(len(SMILES) - 5))
    with pytest.raises(Exhausted):
        campaign.ask(1)
