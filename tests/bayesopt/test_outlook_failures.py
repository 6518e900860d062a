"""`Campaign.outlook` where trials fail: what failed, or will, is not the best there is."""

from __future__ import annotations

import math

import pytest
import torch

from sggp.bayesopt import Box, BoxSearch, Campaign, Pool
from sggp.bayesopt.outlook.conditions import conditions_of, rows_met

ROWS = 61


def x() -> torch.Tensor:
    return torch.linspace(0, 1, ROWS, dtype=torch.float64)[:, None]


def campaign_of(folder, measured, failed, policy="excluded") -> Campaign:
    """The values rise up to x = 1; the rest of the rows is neither measured nor waiting."""
    campaign = Campaign(Pool(x()), folder / "c.db", maximize=True, seed=3, num_initial=ROWS)
    for trial in campaign.ask(ROWS):
        if trial.index in measured:
            campaign.tell(trial.id, float(x()[trial.index]))
        elif trial.index in failed:
            campaign.fail(trial.id, "precipitates", policy=policy)
        else:
            campaign.withdraw(trial.id, "not today")
    return campaign


def test_places_that_will_fail_are_not_the_best_there_is(tmp_path):
    """Rows above .6 fail: the best of the others is .05 better than the best found, that of all .45."""
    measured, failed = range(0, 34, 3), range(37, ROWS, 3)
    said = campaign_of(tmp_path, measured, failed).outlook(num_samples=64, batch_size=2, top=[1])
    assert said.best == pytest.approx(0.55)
    assert said.regret_median.value < 0.09
    assert said.regret_90.value + said.regret_90.error < 0.45
    assert said.conditions == ("the measurement succeeds",)
    (sentence,) = (one for one in said.sentences() if "condition" in one)
    assert "counts (the measurement succeeds): " in sentence
    (tmp_path / "blind").mkdir()
    blind = campaign_of(tmp_path / "blind", measured, ()).outlook(num_samples=64, batch_size=2, top=[1])
    assert blind.regret_median.value > 0.3
    assert blind.conditions == ()


@pytest.mark.parametrize(("policy", "over"), [("excluded", True), ("imputed", True), ("retry", False)])
def test_what_failed_does_not_count_but_where_it_is_tried_again(tmp_path, policy, over):
    """Nothing but failed rows is left, and the best of them would be the best there is."""
    failed = (30, ROWS - 1)
    measured = sorted(set(range(ROWS)) - set(failed))
    campaign = campaign_of(tmp_path, measured, failed, policy)
    said = campaign.outlook(num_samples=64, top=[1])
    assert said.best_at == ROWS - 2
    within = said.within[0].probability.value
    assert within == 1.0 if over else within < 0.9
    assert said.measured == len(measured)


def test_a_place_succeeds_with_the_probability_of_the_model(tmp_path):
    """Over 2,000 paths, within four standard errors of the exact probability, path by path of one draw."""
    campaign = campaign_of(tmp_path, range(0, 34, 3), range(37, ROWS, 3))
    beliefs = campaign.beliefs(2000, generator=0)
    met = rows_met(conditions_of(beliefs, ()), 2000, (torch.Generator().manual_seed(1),))
    found = met(x())
    exact = beliefs.failures.probability(x())
    error = (exact * (1 - exact) / 2000).sqrt() + 1e-3
    assert ((found.double().mean(0) - exact).abs() / error).max() < 4.5
    assert exact[0] > 0.9
    assert exact[-1] < 0.3


def test_the_best_of_a_box_is_where_more_succeed_than_fail(tmp_path):
    """Against a grid on every path."""
    search = BoxSearch(rounds=2, candidates=256, starts=4, steps=30)
    place = tmp_path / "c.db"
    campaign = Campaign(Box([[0.0, 1.0]]), place, maximize=True, seed=1, num_initial=12, search=search)
    for trial in campaign.ask(12):
        if trial.x[0] > 0.6:
            campaign.fail(trial.id, "boils over")
        else:
            campaign.tell(trial.id, trial.x[0])
    said = campaign.outlook(num_samples=32, batch_size=1, epsilon=[0.0], generator=0)
    beliefs = campaign.beliefs(32, generator=4)
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
    model, failures = beliefs.surrogate, beliefs.failures
    values = (model.posterior.samples(grid) * model.scale + model.offset).detach()
    chance = failures.of_paths(failures.posterior.samples(grid)).detach()
    best = values.masked_fill(chance < 0.5, -math.inf).max(1).values.median()
    assert said.best + said.regret_median.value == pytest.approx(float(best), abs=0.1)
    assert best < 0.85
    assert said.conditions == ("the measurement succeeds",)
