"""`Campaign.outlook` with constraints: the best there is, and the best found, are of what meets them."""

from __future__ import annotations

import math

import pytest
import torch

from sggp.bayesopt import Box, BoxSearch, Campaign, Constraint, Objective, Pool, fit_surrogate
from sggp.bayesopt.outlook import Condition, outlook
from sggp.errors import InputError, ShapeError

WANTED = {
    "objectives": [Objective("yield", maximize=True)],
    "constraints": [Constraint("purity", at_least=0.4)],
}


def table() -> torch.Tensor:
    return torch.linspace(0, 1, 61, dtype=torch.float64)[:, None]


def campaign_of(space, folder, **more) -> Campaign:
    return Campaign(space, folder / "c.db", seed=3, **WANTED, **more)


def outcomes(x: float) -> dict[str, float]:
    """The yield rises up to x = 1, the purity falls: the best that is pure enough is .6, at .6."""
    return {"yield": x, "purity": 1 - x}


def test_what_is_impure_is_neither_the_best_found_nor_the_best_there_is(tmp_path):
    x = table()
    campaign = campaign_of(Pool(x), tmp_path)
    rows = (0, 10, 20, 30, 33, 40, 50, 60)
    campaign.attach_many([(row, outcomes(float(x[row]))) for row in rows])
    said = campaign.outlook(num_samples=64, batch_size=3, top=[1])
    assert said.best_at == 33 == campaign.best()[0].index
    assert said.best == pytest.approx(0.55)
    assert said.measured == len(rows)
    assert 0.02 < said.regret_median.value < 0.09  # .6 and little more
    assert said.regret_90.value < 0.2  # 1.0 is .45 better, and impure
    assert 0.0 < said.gain.value < 0.1
    assert said.found[0].expected.value < 0.2  # the best of all that are pure is not yet found
    (sentence,) = (one for one in said.sentences() if "condition" in one)
    assert "purity at least 0.4" in sentence
    assert said.as_dict()["conditions"] == ("purity at least 0.4",)
    plain = Campaign(Pool(x), tmp_path / "plain.db", maximize=True, seed=3)
    plain.attach_many([(row, float(x[row])) for row in rows])
    assert plain.outlook(num_samples=32).best_at == 60
    assert plain.outlook(num_samples=32).conditions == ()


def test_a_measured_row_is_no_more_in_doubt(tmp_path):
    """Everything was measured: what came out impure stays so, though paths of a noisy purity doubt it."""
    x = table()[::6]
    campaign = campaign_of(Pool(x), tmp_path)
    purity = [0.45, 0.35, 0.44, 0.36, 0.46, 0.37, 0.43, 0.36, 0.44, 0.38, 0.39]
    campaign.attach_many(
        [(row, {"yield": float(x[row]), "purity": (purity[row], 0.1)}) for row in range(len(x))]
    )
    said = campaign.outlook(num_samples=64)
    assert said.best_at == campaign.best()[0].index == 8
    assert said.regret_90.value == 0.0
    assert said.within[0].probability.value == 1.0


def test_an_unknown_constraint_leaves_a_row_unmeasured(tmp_path):
    x = table()
    campaign = campaign_of(Pool(x), tmp_path)
    campaign.attach_many([(row, outcomes(float(x[row]))) for row in (0, 10, 20, 30, 50)])
    campaign.attach(36, {"yield": 0.6})  # pure enough by a hair, which nobody measured
    campaign.attach(34, {"yield": 0.57, "purity": "<0.9"})
    campaign.attach(31, {"yield": 0.52, "purity": ">0.45"})
    said = campaign.outlook(num_samples=32)
    assert said.measured == 6
    assert said.best_at == 31
    campaign.attach(35, {"yield": 0.58, "purity": "<0.3"})  # sure to be too little
    assert campaign.outlook(num_samples=32).measured == 7
    assert campaign.outlook(num_samples=32).best_at == 31


def test_where_nothing_meets_the_constraints_there_is_no_outlook(tmp_path):
    campaign = campaign_of(Pool(table()), tmp_path)
    campaign.attach_many([(row, outcomes(row / 60)) for row in (40, 45, 50, 60)])
    with pytest.raises(InputError, match="meets every constraint"):
        campaign.outlook(num_samples=32)


def test_a_constraint_that_nobody_measured_is_left_out(tmp_path):
    campaign = campaign_of(Pool(table()), tmp_path)
    campaign.attach_many([(row, {"yield": row / 60}) for row in (0, 20, 40, 60)])
    said = campaign.outlook(num_samples=32)
    assert (said.best_at, said.conditions) == (60, ())


@pytest.mark.parametrize("maximize", [pytest.param(True, marks=pytest.mark.slow), False])
def test_paths_of_a_box_end_where_their_constraint_does(maximize):
    """Against the best of a dense grid on every path, of the points where the path of the constraint allows it."""
    sign = 1.0 if maximize else -1.0
    x = torch.tensor([[0.0], [0.2], [0.45], [0.7], [1.0]], dtype=torch.float64)
    model = fit_surrogate(x, sign * x[:, 0], num_samples=32, generator=0)
    other = fit_surrogate(x, (3 * x[:, 0]).sin(), num_samples=32, generator=1)
    limit = 0.8  # met between .31 and .74
    met = (3 * x[:, 0]).sin() >= limit
    said = outlook(
        model,
        Box([[0.0, 1.0]]),
        x,
        sign * x[:, 0],
        maximize=maximize,
        epsilon=[0.0],
        search=BoxSearch(rounds=3, candidates=512, starts=4, steps=60),
        conditions={"other": Condition(other, low=limit)},
        met=met,
        batch=torch.tensor([[0.9]], dtype=torch.float64),
        generator=2,
    )
    grid = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None]
    paths = sign * model.posterior.samples(grid).detach() * model.scale + sign * model.offset
    allowed = other.posterior.samples(grid).detach() * other.scale + other.offset >= limit
    there_is = paths.masked_fill(~allowed, -math.inf).max(1).values
    in_hand = sign * model.posterior.samples(x[[3]]).detach()[:, 0] * model.scale + sign * model.offset
    regret = (torch.maximum(there_is, in_hand) - in_hand).clamp_min(0.0)
    assert said.best_at == 3
    assert regret.median() > 0.02
    assert said.regret_90.value == pytest.approx(
        float(regret.quantile(0.9, interpolation="higher")), abs=2e-3
    )
    assert said.gain.value == 0.0  # .9 is forbidden


def test_conditions_that_cannot_be_used_are_refused():
    x = table()[::12]
    model = fit_surrogate(x, x[:, 0], num_samples=32, generator=0)
    few = fit_surrogate(x, x[:, 0], num_samples=16, generator=0)
    ask = {"maximize": True, "generator": 0}
    with pytest.raises(InputError, match="'purity' carries 16 sample paths and that of the objective 32"):
        outlook(model, Pool(x), range(6), x[:, 0], conditions={"purity": Condition(few, 0.0)}, **ask)
    for met in ([True], [1] * 6, "yes"):
        with pytest.raises(ShapeError, match="met must hold true or false for each of the 6"):
            outlook(model, Pool(x), range(6), x[:, 0], met=met, **ask)
