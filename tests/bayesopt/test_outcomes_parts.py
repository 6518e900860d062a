"""What several outcomes are made of: definitions, fronts, hypervolumes, and sites of one-sided observations."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from sggp.bayesopt.outcomes import Constraint, Objective, Outcomes
from sggp.bayesopt.outcomes.fronts import (
    free_boxes,
    hypervolume,
    improvement,
    non_dominated,
    reference_point,
    shortfall,
)
from sggp.bayesopt.outcomes.sites import inverse_mills, one_sided_sites, tilted_moments
from sggp.errors import DtypeError, InputError, ShapeError


def points(rows: int, objectives: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, objectives, generator=generator, dtype=torch.float64)


# definitions


def test_outcomes_go_through_json():
    given = Outcomes(
        [Objective("yield", True, "%"), Objective("cost", False)],
        [Constraint("purity", at_least=0.9), Constraint("cost", at_most=4)],
    )
    assert Outcomes.from_json(json.loads(json.dumps(given.as_json()))) == given
    assert given.names == ("yield", "cost", "purity")
    assert [objective.sign for objective in given.objectives] == [1.0, -1.0]


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Objective("", True), InputError, "needs a name"),
        (lambda: Objective("y", "min"), InputError, "maximize of 'y' must be True or False"),
        (lambda: Objective("y", True, 3), InputError, "unit of 'y'"),
        (lambda: Constraint("y"), InputError, "needs a limit"),
        (lambda: Constraint("y", at_least=2, at_most=1), InputError, "can never be met"),
        (lambda: Constraint("y", at_least=math.nan), InputError, "at_least of 'y'"),
        (lambda: Outcomes([]), InputError, "at least one objective"),
        (lambda: Outcomes([Objective("y", True)] * 2), InputError, "more than once"),
        (lambda: Outcomes(["y"]), DtypeError, r"must hold Objective\(...\)"),
        (lambda: Outcomes("y"), DtypeError, "list of Objective"),
        (lambda: Outcomes.from_json({"objectives": [{"nam": 1}]}), InputError, "no stored objectives"),
        (lambda: Outcomes.from_json(7), InputError, "no stored objectives"),
    ],
)
def test_outcomes_that_cannot_be_are_refused(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_constraints_are_met_at_their_limits():
    both = Constraint("t", at_least=1, at_most=2)
    assert [both.met(v) for v in (0.9, 1.0, 1.5, 2.0, 2.1)] == [False, True, True, True, False]


# fronts


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_front_is_that_of_brute_force(objectives):
    values = points(60, objectives).mul(8).round()  # with ties and repeats
    expected = [not any(all(b >= a) and any(b > a) for b in values.numpy()) for a in values.numpy()]
    assert non_dominated(values).tolist() == expected
    assert 0 < sum(expected) < 60


def inclusion_exclusion(values: torch.Tensor, reference: torch.Tensor) -> float:
    total = 0.0
    for size in range(1, len(values) + 1):
        for subset in itertools.combinations(range(len(values)), size):
            corner = values[list(subset)].amin(0)
            total += (-1) ** (size + 1) * float((corner - reference).clamp_min(0).prod())
    return total


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_hypervolume_is_that_of_inclusion_and_exclusion(objectives):
    reference = torch.full((objectives,), 0.2, dtype=torch.float64)
    for seed in range(5):
        values = points(8, objectives, seed)
        assert hypervolume(values, reference) == pytest.approx(
            inclusion_exclusion(values, reference), abs=1e-12
        )
    assert hypervolume(values[:0], reference) == 0.0
    assert hypervolume(torch.zeros_like(values), reference) == 0.0


@pytest.mark.parametrize("objectives", [2, 3])
def test_improvement_is_the_difference_of_hypervolumes(objectives):
    reference = torch.zeros(objectives, dtype=torch.float64)
    front, new = points(12, objectives), points(40, objectives, 1) * 1.3
    boxes = free_boxes(front, reference)
    expected = [
        hypervolume(torch.cat([front, z[None]]), reference) - hypervolume(front, reference) for z in new
    ]
    assert improvement(new, boxes).tolist() == pytest.approx(expected, abs=1e-12)
    assert 0 < sum(e == pytest.approx(0, abs=1e-12) for e in expected) < 40
    free = torch.tensor([bool((~((front >= z).all(1))).all()) for z in new])
    assert torch.equal(shortfall(new, boxes) == 0, free)


def test_free_boxes_are_disjoint_and_few():
    reference = torch.zeros(3, dtype=torch.float64)
    front = points(15, 3)
    low, high = free_boxes(front, reference)
    kept = int(non_dominated(front).sum())
    assert len(low) <= (kept + 1) * (kept + 2) // 2
    anywhere = points(500, 3, 2) * 1.2
    inside = ((anywhere[:, None] > low) & (anywhere[:, None] < high)).all(-1).sum(1)
    dominated = (front[None] >= anywhere[:, None]).all(-1).any(1)
    assert torch.equal(inside, (~dominated).long())


def test_automatic_reference_lies_a_tenth_below_the_front():
    values = torch.tensor([[0.0, 10.0], [4.0, 5.0], [2.0, 2.0]], dtype=torch.float64)
    assert reference_point(values).tolist() == pytest.approx([-0.4, 4.5])
    assert reference_point(values[1:]).tolist() == pytest.approx([4 - 0.2, 5 - 0.3])
    assert reference_point(values[:1]).tolist() == pytest.approx([-0.1, 9.9])


def test_fronts_refuse_other_shapes():
    with pytest.raises(ShapeError, match=r"must be \(k, 2\)"):
        free_boxes(points(3, 3), torch.zeros(2, dtype=torch.float64))
    with pytest.raises(InputError, match="up to three"):
        hypervolume(points(3, 4), torch.zeros(4, dtype=torch.float64))


# one-sided observations


@pytest.mark.parametrize("side", [1.0, -1.0])
@pytest.mark.parametrize("limit", [-30.0, -2.0, 0.3, 4.0, 30.0])
def test_moments_are_those_of_a_truncated_normal(side, limit):
    one = [torch.tensor([v], dtype=torch.float64) for v in (0.5, 4.0, limit, side, 0.0)]
    _, mean, variance = tilted_moments(*one)
    ends = ((limit - 0.5) / 2, math.inf) if side > 0 else (-math.inf, (limit - 0.5) / 2)
    assert float(mean) == pytest.approx(stats.truncnorm.mean(*ends, loc=0.5, scale=2.0), rel=1e-6)
    assert float(variance) == pytest.approx(stats.truncnorm.var(*ends, loc=0.5, scale=2.0), rel=1e-3)
    assert float(inverse_mills(torch.tensor(-200.0, dtype=torch.float64))) == pytest.approx(200.005, rel=1e-6)


def by_grid(mean, covariance, limit, side, noise):
    """Mass and moments over a grid in two dimensions."""
    axis = torch.linspace(-9, 9, 901, dtype=torch.float64)
    f = torch.cartesian_prod(axis, axis)
    prior = torch.distributions.MultivariateNormal(mean, covariance).log_prob(f)
    weight = torch.exp(prior + torch.special.log_ndtr(side * (f - limit) / noise.sqrt()).sum(1)) * 0.02**2
    mass = weight.sum()
    centre = (weight[:, None] * f).sum(0) / mass
    left = f - centre
    return float(mass.log()), centre, (weight[:, None, None] * left[:, :, None] * left[:, None]).sum(0) / mass


@pytest.mark.parametrize("limits", [(0.0, 0.0), (1.5, -0.5), (-2.0, 2.0)])
def test_sites_have_the_moments_and_the_evidence_of_a_grid(limits):
    mean = torch.tensor([0.3, -0.2], dtype=torch.float64)
    covariance = torch.tensor([[1.0, 0.6], [0.6, 1.5]], dtype=torch.float64)
    limit = torch.tensor(limits, dtype=torch.float64)
    side, noise = (
        torch.tensor([1.0, -1.0], dtype=torch.float64),
        torch.tensor([0.1, 0.5], dtype=torch.float64),
    )
    sites = one_sided_sites(mean, covariance, limit, side, noise)
    evidence, centre, spread = by_grid(mean, covariance, limit, side, noise)
    assert sites.log_evidence == pytest.approx(evidence, abs=0.02)
    assert sites.mean.tolist() == pytest.approx(centre.tolist(), abs=0.02)
    assert sites.covariance.flatten().tolist() == pytest.approx(spread.flatten().tolist(), abs=0.03)


def test_sites_count_as_measurements():
    """Conditioning on the pseudo-values gives the sites' own posterior; what says nothing gets no weight."""
    x = np.linspace(0, 1, 6)
    covariance = torch.from_numpy(np.exp(-((x[:, None] - x) ** 2) / 0.1) + 1e-6 * np.eye(6))
    mean = torch.full((6,), 0.5, dtype=torch.float64)
    limit = torch.tensor([0.0, 1.0, 0.4, -40.0, 0.2, 0.0], dtype=torch.float64)
    side, noise = torch.tensor([1.0, 1, -1, 1, -1, 1]).double(), torch.full((6,), 0.05, dtype=torch.float64)
    sites = one_sided_sites(mean, covariance, limit, side, noise)
    gain = torch.linalg.solve(covariance + torch.diag(sites.noise), covariance)
    assert (mean + gain.T @ (sites.value - mean)).tolist() == pytest.approx(sites.mean.tolist(), abs=1e-6)
    assert (covariance - covariance @ gain).diagonal().tolist() == pytest.approx(
        sites.covariance.diagonal().tolist(), abs=1e-6
    )
    assert float(sites.noise[3]) > 1e6
