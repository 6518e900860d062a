"""`Campaign.outlook`: the question asked of a campaign's own trials, its pending batch or the next one."""

from __future__ import annotations

import functools
import importlib

import pytest
import torch

from sggp.bayesopt import Box, BoxSearch, Campaign, Pool
from sggp.errors import InputError, OutlyingValues


def pool() -> torch.Tensor:
    return torch.linspace(0, 1, 60, dtype=torch.float64)[:, None]


def value(x: torch.Tensor) -> torch.Tensor:
    return -(x[:, 0] - 0.4).square()


def test_a_pool_is_asked_about_the_trials_that_wait_else_about_the_next(tmp_path):
    x = pool()
    campaign = Campaign(Pool(x), tmp_path / "c.db", maximize=True, seed=3, num_initial=4)
    with pytest.raises(InputError, match="no measurement"):
        campaign.outlook(num_samples=16)
    for trial in campaign.ask(8):
        campaign.tell(trial.id, float(value(x[[trial.index]])))
    last = campaign.results()[-1].batch
    said = campaign.outlook(num_samples=64)  # nothing waits: as many as the last batch had
    assert said.measured == 8
    assert said.gain is not None
    assert said.best == pytest.approx(campaign.best()[0].value, abs=1e-6)
    assert campaign.results()[-1].batch == last  # nothing was asked for
    assert said.as_dict() == campaign.outlook(num_samples=64).as_dict()  # by the campaign's own seed
    campaign.ask(1)
    waiting = campaign.outlook(num_samples=64)
    assert any("1 " in sentence and "batch" in sentence for sentence in waiting.sentences())
    assert campaign.outlook(num_samples=64, batch_size=5).as_dict() != waiting.as_dict()


def test_a_pool_that_is_measured_whole_leaves_nothing_to_gain(tmp_path):
    x = pool()[::12]
    campaign = Campaign(Pool(x), tmp_path / "c.db", maximize=True, seed=3)
    campaign.attach_many([(row, float(value(x[[row]]))) for row in range(len(x))])
    said = campaign.outlook(num_samples=32)
    assert said.regret_90.value == 0.0
    assert said.gain is None
    assert said.within[0].probability.value == 1.0


def test_a_box_is_asked_in_its_own_terms(tmp_path, monkeypatch):
    """One column needs no long search, of a path as of the next batch."""
    short = functools.partial(BoxSearch, rounds=2, candidates=256, starts=1, steps=10)
    monkeypatch.setattr(importlib.import_module("sggp.bayesopt.outlook.ask"), "BoxSearch", short)
    box = Box({"dose": (10.0, 20.0)})
    campaign = Campaign(box, tmp_path / "c.db", maximize=True, seed=3, search=short())
    for dose in (10.0, 12.0, 13.5, 15.0, 17.0, 20.0):
        campaign.attach({"dose": dose}, -((dose - 14.0) ** 2))
    said = campaign.outlook(num_samples=32, batch_size=1)
    assert said.kind == "box"
    assert said.best == pytest.approx(-0.25, abs=0.3)
    assert 0.0 <= said.regret_90.value < 2.0  # the best there is is 0, at 14


def test_values_set_apart_and_bounds_that_guarantee_nothing_are_not_the_best(tmp_path):
    x = torch.randn(80, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    campaign = Campaign(Pool(x), tmp_path / "c.db", maximize=True, seed=1)
    for row in range(20):
        campaign.attach(row, float(x[row].sum()))
    best = campaign.best()[0]
    before = campaign.outlook(num_samples=32, generator=0)
    campaign.attach(20, "<50")  # it may be anything
    campaign.attach(21, 1e9)  # a slip
    with pytest.warns(OutlyingValues, match="trial 22"):
        after = campaign.outlook(num_samples=32, generator=0)
    assert after.best == before.best == best.value
    assert after.best_at == before.best_at == best.index
    assert after.measured == 20
    assert after.regret_90.value < 100


def test_categories_are_asked_about_by_their_codes(tmp_path):
    box = Box({"base": ["a", "b", "c"], "dose": (0.0, 1.0)})
    quick = BoxSearch(rounds=1, candidates=32, starts=1, steps=3)
    campaign = Campaign(box, tmp_path / "c.db", maximize=True, seed=3, num_initial=3, search=quick)
    campaign.attach_many([((base, dose), dose) for base in "abc" for dose in (0.1, 0.5, 0.9)])
    campaign.ask(2)
    said = campaign.outlook(num_samples=16)
    assert (said.measured, said.batch) == (9, 2)
    assert 0.8 < said.best < 1.1


def test_twins_of_measured_rows_are_measured(tmp_path):
    """Of five equal rows one was asked for: nothing is left, though four rows have no trial."""
    table = torch.tensor([[1.0], [1.0], [2.0], [1.0], [2.0]], dtype=torch.float64)
    campaign = Campaign(Pool(table), tmp_path / "c.db", maximize=True, seed=3)
    campaign.attach_many([(3, 4.0), (4, 6.0)])
    said = campaign.outlook(num_samples=32)
    assert (said.size, said.measured, said.best) == (2, 2, 6.0)
    assert said.within[0].probability.value == 1.0
    assert said.regret_90.value == 0.0


def test_repeats_on_twins_are_repeats(tmp_path):
    table = torch.cat([pool()[:10], pool()[:10]])
    campaign = Campaign(Pool(table), tmp_path / "c.db", maximize=True, seed=3)
    campaign.attach_many([(row, float(row % 10) + row // 10) for row in (*range(6), *range(10, 16))])
    said = campaign.outlook(num_samples=32)
    assert (said.size, said.measured) == (10, 6)
    assert said.noise_std == pytest.approx(0.5**0.5)  # six pairs that differ by 1


@pytest.mark.parametrize("space", [Pool(pool()), Box([[0.0, 1.0]])])
def test_values_whose_squares_are_none_are_refused(tmp_path, space):
    campaign = Campaign(space, tmp_path / "c.db", maximize=True, seed=3)
    rows = [0, 20, 40] if isinstance(space, Pool) else [[0.0], [0.3], [0.7]]
    campaign.attach_many(zip(rows, (1.0, 2.0, 1e308), strict=True))
    with pytest.raises(InputError, match="withdraw it"):
        campaign.outlook(num_samples=16)
