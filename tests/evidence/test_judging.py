"""Which kernel wins, by scores of rows and their standard errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sggp.evidence.judging import Contest, _Rows, choose, densities, held_out, judge
from sggp.evidence.leave_one_out import Observed
from sggp.hyperparameters import named_kernel


def rows(crps=0.0, squared=0.0, density=0.0, spread=1.0, seed=0, size=400):
    noise = spread * np.random.default_rng(seed).standard_normal((3, size))
    noise -= noise.mean(axis=1, keepdims=True)
    return _Rows(density + noise[0], 1 + crps + noise[1], 1 + squared + noise[2])


BASE = rows()  # differences of independent rows have a standard error of sqrt(2/400) = .07


@pytest.mark.parametrize(
    ("other", "chosen", "told"),
    [
        (rows(crps=0.05, seed=1), "rough", "nothing tells rough, smooth apart"),
        (rows(crps=-0.05, density=0.05, seed=1), "rough", "nothing tells rough, smooth apart"),
        (rows(crps=-0.3, seed=1), "smooth", "CRPS excludes rough"),
        (rows(squared=-0.3, seed=1), "smooth", "squared error excludes rough"),
        (rows(density=0.3, seed=1), "smooth", "log density excludes rough"),
        (rows(crps=0.3, density=0.9, seed=1), "rough", "CRPS excludes smooth"),
        (rows(squared=0.3, density=0.9, seed=1), "rough", "squared error excludes smooth"),
    ],
)
def test_nothing_is_decided_within_two_standard_errors(other, chosen, told):
    name, reason = choose({"rough": BASE, "smooth": other})
    assert name == chosen
    assert told in reason


def test_coarser_densities_are_those_well_below_the_table():
    assert densities(40_000) == (40_000, 3000, 1000, 250)
    assert densities(2000) == (2000, 250)
    assert densities(300) == (300,)


def test_held_out_rows_are_a_quarter_and_disjoint(generator):
    judged, rest = held_out(1000, generator)
    assert (len(judged), len(rest)) == (250, 750)
    assert len(torch.cat([judged, rest]).unique()) == 1000
    assert len(held_out(50_000, generator)[0]) == 2000


def observed(length, x, y, noise=1e-3, name="rbf"):
    kernel = named_kernel(name, 1)
    kernel.base_kernel.lengthscale = length
    return Observed(kernel.requires_grad_(False), x, y, torch.full((len(x),), noise, dtype=torch.float64))


def test_the_right_length_scale_wins_and_ties_go_to_the_first(generator):
    x = torch.rand(1500, 1, generator=generator, dtype=torch.float64)
    y = torch.sin(8 * x) + 0.03 * torch.randn(1500, 1, generator=generator, dtype=torch.float64)
    judged, rest = held_out(1500, generator)
    wrong, right = observed(0.004, x, y), observed(0.3, x, y)
    selection = judge({"wrong": wrong, "right": right}, judged, rest)
    assert selection.chosen == "right"
    assert "CRPS excludes wrong" in selection.reason
    by_name = {s.name: s for s in selection.scores}
    assert by_name["right"].crps_behind == (0.0, 0.0)
    gap, error = by_name["wrong"].log_density_behind
    assert gap > 10 * error > 0
    assert [m for m, *_ in by_name["right"].by_density] == [1125, 250]
    assert "right*" in str(selection)
    assert judge({"a": right, "b": right}, judged, rest).chosen == "a"
    assert judge({"b": right, "a": right}, judged, rest).chosen == "b"


def test_from_few_rows_predictions_are_exact(generator):
    """By their nearest rows smooth kernels look better than they are."""
    x = torch.rand(1500, 1, generator=generator, dtype=torch.float64)
    y = torch.sin(40 * x) + 0.3 * torch.randn(1500, 1, generator=generator, dtype=torch.float64)
    judged, rest = held_out(1500, generator)
    table = observed(0.2, x, y, noise=0.1)
    (score,) = judge({"stiff": table}, judged, rest).scores
    given, k = rest[:250], table.kernel
    with torch.no_grad():
        system = k(x[given]).to_dense() + 0.1 * torch.eye(250, dtype=torch.float64)
        mean = k(x[judged], x[given]).to_dense() @ torch.linalg.solve(system, y[given])
    count, _, _, rmse = score.by_density[1]
    assert count == 250
    assert rmse == pytest.approx(float((y[judged] - mean).square().mean().sqrt()), rel=1e-6)


def test_gaps_count_beside_the_density_of_the_table():
    """Two kernels that fit the fine scale alike: the coarse densities tell them apart."""
    g = torch.Generator().manual_seed(3)
    x = torch.linspace(0, 1, 1500, dtype=torch.float64)[:, None]
    x = x[torch.randperm(1500, generator=g)]
    y = torch.sin(12 * x) + 0.01 * torch.randn(1500, 1, generator=g, dtype=torch.float64)
    judged, rest = held_out(1500, g)
    fine, coarse = observed(0.004, x, y, 1e-4), observed(0.2, x, y, 1e-4)
    scores = {s.name: s for s in judge({"fine": fine, "coarse": coarse}, judged, rest).scores}
    full = {name: s.by_density[0][3] for name, s in scores.items()}
    few = {name: s.by_density[1][3] for name, s in scores.items()}
    assert full["fine"] < 3 * full["coarse"]
    assert few["fine"] > 5 * few["coarse"]


def test_each_density_counts_half_as_much_as_the_one_before():
    contest = Contest(torch.arange(400), torch.arange(9000))
    wins = np.eye(4)  # of the second kernel, at one density each
    for level, share in enumerate([0.5, 0.25, 0.125, 0.125]):
        contest._results = {"rough": [BASE] * 4, "smooth": [rows(crps=-0.2 * win) for win in wins[level]]}
        scores = contest.selection(["rough", "smooth"]).scores
        assert scores[0].crps - scores[1].crps == pytest.approx(0.2 * share)
