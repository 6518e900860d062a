"""What our model and BoTorch's learn from the same designs, and how well each predicts with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lib.common import print_table
from lib.objectives import Problem
from lib.surrogates import BOTORCH, OURS, dense_like, fit_botorch, fit_ours, learnt

__all__ = ["compare"]

TEST_POINTS = 1000


def scores(model: Any, points: Tensor, truth: Tensor, spread: float) -> list[str]:
    """RMSE in units of the spread, and the mean negative log density of the truth (relative to the spread)."""
    with torch.no_grad():
        posterior = model.posterior(points)
        error = (posterior.mean[:, 0] - truth) / spread
        variance = posterior.variance[:, 0].clamp_min(1e-20) / spread**2
    density = 0.5 * (error.square() / variance + (2 * torch.pi * variance).log())
    return [f"{float(error.square().mean().sqrt()):.2f}", f"{float(density.mean()):.2f}"]


def compare(functions: list[str], noises: list[str], seeds: int, count: int) -> None:
    """Fit both on the first `count` points of the design of every seed.

    Densities are those of dense posteriors; the last column is the median ratio of our paths' variance to it.
    """
    rows = []
    for function in functions:
        for noise in noises:
            for seed in range(seeds):
                rows += _rows(Problem(function, noise, seed), count)
    columns = ["function", "noise", "seed", "model", "kernel", "length scales (unit cube)", "output scale"]
    columns += ["noise variance", "mean", "RMSE / spread", "NLPD", "path variance / exact"]
    print_table(columns, rows)


def _rows(problem: Problem, count: int) -> list[list[str]]:
    x = problem.design(count)
    y = problem.measure(x, 0)
    torch.manual_seed(problem.seed)
    points = torch.rand(TEST_POINTS, problem.dimension, dtype=torch.float64)
    truth = problem.value(points)
    ours, theirs = fit_ours(x, y, problem.seed), fit_botorch(x, y, problem.seed)
    dense = dense_like(ours, x, y)
    with torch.no_grad():
        ratio = ours.posterior(points).variance / dense.posterior(points).variance
    rows = []
    for name, model, exact in ((OURS, ours, dense), (BOTORCH, theirs, theirs)):
        found = learnt(model)
        lengths = found["lengthscale"]
        rows.append(
            [
                problem.function,
                problem.noise,
                str(problem.seed),
                name,
                found["kernel"],
                "–" if lengths is None else " ".join(f"{value:.2g}" for value in lengths),
                f"{found['outputscale']:.2g}",
                f"{found['noise_variance']:.1e}",
                f"{found['mean']:.2f}",
                *scores(exact, points, truth, problem.spread),
                f"{float(ratio.median()):.2f}" if name == OURS else "",
            ]
        )
    return rows
