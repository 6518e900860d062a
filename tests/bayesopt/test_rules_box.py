"""The rules in a box: a best point of the score, the others by paths, and plain refusals."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from sggp.bayesopt import Box, BoxSearch, fit_surrogate
from sggp.bayesopt.rules import RULES, make_rule
from sggp.bayesopt.rules.scores import Slots
from sggp.errors import InputError

OF_ONE = [name for name in RULES if name != "hypervolume"]  # which is for several objectives

BOX = Box([[0.0, 1.0], [0.0, 1.0]])
SEARCH = BoxSearch(rounds=4, candidates=512, starts=2, steps=40)


@functools.cache
def model(sign: float = 1.0):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(14, 2, generator=generator, dtype=torch.float64)
    y = -sign * (x - 0.35).square().sum(1)
    return fit_surrogate(x, y, num_samples=64, generator=0)


def chosen(name: str, q: int, sign: float = 1.0, **options):
    fitted = model(sign)
    rule = make_rule(name, BOX, q, maximize=sign > 0, search=SEARCH)
    return fitted, rule, rule.choose(fitted.posterior, generator=1, **options)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", ["ucb", "ei", "greedy"])
def test_one_point_is_the_best_of_the_score_on_a_grid(name, sign):
    fitted, rule, choice = chosen(name, 1, sign)
    line = torch.linspace(0, 1, 81, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        mean, variance = fitted.posterior.mean_and_variance(torch.cat([grid, choice.places]))
        mean = sign * mean.double()
        score = rule.score(mean, variance.double().clamp_min(1e-20).sqrt(), float(mean.max()))
    assert score[-1] >= score[:-1].max() - 1e-3 * (score.max() - score.median()).abs()
    assert BOX.clip(choice.places).equal(choice.places)
    assert len(choice.why) == 1


@pytest.mark.parametrize("name", ["thompson", "tempered", "ucb", "ei"])
def test_a_batch_spreads_and_says_why(name):
    _, _, choice = chosen(name, 5)
    assert choice.places.shape == (5, 2)
    apart = torch.cdist(choice.places, choice.places) + torch.eye(5)
    assert apart.min() > 1e-6
    assert all(why.startswith("expected ") and "sample 5 of 5" in choice.why[4] for why in choice.why)


def test_tempering_gathers_a_batch_around_the_best_mean():
    spread = {name: float(chosen(name, 8)[2].places.std(dim=0).sum()) for name in ("thompson", "tempered")}
    assert spread["tempered"] < spread["thompson"]


def test_hopeful_paths_average_to_the_bound():
    """E|N(0, 1)| = √(2/π), so that mean + width·√(π/2)·|path − mean| is the bound on average."""
    rule = make_rule("ucb", BOX, 1)
    noise = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = torch.tensor([0.3], dtype=torch.float64)
    assert rule.path_form(mean, mean + 0.5 * noise).mean().item() == pytest.approx(0.3 + 2 * 0.5, abs=0.01)


@pytest.mark.parametrize("name", ["ucb", "ei"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_paired_points_give_the_values_of_shared_ones(name, sign):
    fitted = model(sign)
    rule = make_rule(name, BOX, 3, maximize=sign > 0)
    slots = Slots(rule, fitted.posterior, fitted.posterior.samples.select([0, 1, 2]), 0.1)
    points = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        paired = slots.paired(points)
        shared = torch.stack([slots(own)[slot] for slot, own in enumerate(points)])
    torch.testing.assert_close(paired, shared, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(paired[1], paired[2])


@pytest.mark.parametrize("name", OF_ONE)
def test_what_cannot_work_in_a_box_is_refused_with_the_way_out(name):
    if name == "top-k":
        with pytest.raises(InputError, match="a box has none: take the rule thompson"):
            make_rule(name, BOX, 1)
    elif name == "greedy":
        with pytest.raises(InputError, match="one point of a box at a time, not 2"):
            make_rule(name, BOX, 2)
    else:
        assert make_rule(name, BOX, 3).batch_size == 3


def test_the_gain_in_words_is_that_of_the_first_point_only():
    _, _, choice = chosen("ei", 2, scaling=(0.0, 10.0))
    gain = 10 * math.exp(float(choice.values[0]))
    assert f"gain of {gain:.2g} expected" in choice.why[0]
    assert "sample 2 of 2" in choice.why[1]
