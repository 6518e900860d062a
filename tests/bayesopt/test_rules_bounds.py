"""Rules that solve only for rows which may matter, against solving for every row of a pool."""

from __future__ import annotations

import math

import pytest
import torch

from sggp.bayesopt import Pool, Surrogate, fit_surrogate, surrogate
from sggp.bayesopt.rules import make_rule
from sggp.bayesopt.rules.scores import ScoreRule
from sggp.bayesopt.rules.sweep import best_rows
from sggp.errors import InputError
from sggp.posterior import query_weights

ROWS, KNOWN, Q = 3000, 150, 6


def counts(rows: int = ROWS) -> torch.Tensor:
    """Fingerprints of families: a row has the counts of its family, and some of its own."""
    generator = torch.Generator().manual_seed(2)
    family = torch.randint(0, 3, (40, 48), generator=generator)
    own = torch.randint(0, 2, (rows, 48), generator=generator)
    return (family[torch.arange(rows) % 40] + own).to(torch.uint8)


@pytest.fixture(scope="module")
def pool() -> Pool:
    return Pool(counts(), chunk_size=1000)


def model(pool: Pool, name: str) -> Surrogate:
    x = pool.rows(range(KNOWN))
    y = (x[:, :9].double().sum(1) / 4).sin() + x[:, 9:20].double().mean(1)
    paths = make_rule(name, pool, Q).paths_for(KNOWN)
    assert paths == 0
    return fit_surrogate(x, y, num_samples=paths, generator=0)


@pytest.mark.parametrize(("name", "maximize"), [("ucb", True), ("ucb", False), ("ei", True)])
def test_the_batch_is_that_of_solving_for_every_row(pool, name, maximize, monkeypatch):
    """By the scores of all rows, of which few are solved for."""
    monkeypatch.setattr(query_weights, "_BOUND_ROWS", 60)
    posterior = model(pool, name).posterior
    rule = make_rule(name, pool, Q, maximize=maximize)
    mean, variance = posterior.mean_and_variance(pool.rows(range(ROWS)), method="solve")
    mean, best = rule.sign * mean, float((rule.sign * mean).topk(Q).values[-1])
    free = torch.ones(ROWS, dtype=torch.bool)
    free[:KNOWN] = False
    top = best_rows(rule.score(mean, variance.sqrt(), best), free, 3 * Q)
    seen, solve = [], ScoreRule._solved

    def counted(self, posterior, rows):
        seen.extend(rows.tolist())
        return solve(self, posterior, rows)

    monkeypatch.setattr(ScoreRule, "_solved", counted)
    monkeypatch.setattr("sggp.bayesopt.rules.scores._TOGETHER", 20)
    places = rule.suggest(posterior, exclude=range(KNOWN), generator=0)
    expected, _ = rule._one_by_one(posterior, top, mean[top], variance[top].sqrt(), best)
    assert places.tolist() == expected.tolist()
    assert set(top.tolist()) <= set(seen)
    assert len(set(seen)) == len(seen) < 0.25 * ROWS


def test_a_bound_is_one_and_is_the_variance_where_all_rows_are_taken(pool, monkeypatch):
    posterior, points = model(pool, "ucb").posterior, pool.rows(range(100, 400))
    mean, exact = posterior.mean_and_variance(points, method="solve")
    near, same = posterior.mean_and_variance(points, method="bound")
    torch.testing.assert_close(same, exact, rtol=1e-9, atol=1e-9)
    noise = math.sqrt(float(posterior.noise_variance.min()))
    torch.testing.assert_close(near, mean, rtol=0, atol=query_weights._ROUNDING * noise)
    posterior = model(pool, "ucb").posterior
    monkeypatch.setattr(query_weights, "_BOUND_ROWS", 40)
    bound = posterior.mean_and_variance(points, method="bound")[1]
    assert bool((bound >= exact - 1e-12).all())
    assert bool((bound > 1.01 * exact).any())


def test_measured_molecules_beyond_the_direct_rows_are_solved_by_one_factor(pool, monkeypatch):
    monkeypatch.setattr(surrogate, "DIRECT_ROWS", KNOWN - 1)
    found = model(pool, "ucb")
    assert found.posterior.factorises
    assert found.posterior.solution.method.startswith("Cholesky")
    direct = make_rule("ucb", pool, Q).suggest(found.posterior, exclude=range(KNOWN), generator=0)
    assert len(set(direct.tolist())) == Q
    numbers = fit_surrogate(counts(KNOWN).double(), torch.arange(KNOWN) % 7, num_samples=1, generator=0)
    assert numbers.posterior.options.solver is None


def test_where_paths_are_looked_at_they_are_asked_for(pool):
    rule = make_rule("ucb", pool, Q)
    assert rule.paths_for(10_000) == rule.num_samples
    assert make_rule("thompson", pool, Q).paths_for(KNOWN) == Q
    numbers = make_rule("ucb", Pool(torch.rand(50, 2)), Q)
    assert (numbers.paths_for(3000), numbers.paths_for(3001)) == (0, numbers.num_samples)
    with pytest.raises(InputError, match="no samples here"):
        make_rule("thompson", pool, Q).suggest(model(pool, "ucb").posterior)
